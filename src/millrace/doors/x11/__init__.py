"""The screen of an X display."""
