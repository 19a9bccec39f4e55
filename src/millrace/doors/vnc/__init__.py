"""The VNC door."""
