"""The VNC door: a machine's sound and screen."""
