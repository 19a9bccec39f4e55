"""The QEMU D-Bus door: a machine's sound cards in a guest's graph."""
