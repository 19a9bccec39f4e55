"""X11: the client of a display, for its picture and its input."""
