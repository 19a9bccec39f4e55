"""The listener as a library."""
