"""The VNC door: a machine's sound in a guest's graph."""
