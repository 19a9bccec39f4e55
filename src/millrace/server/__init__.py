"""Servers for control and listening: HTTP and the native protocol."""
