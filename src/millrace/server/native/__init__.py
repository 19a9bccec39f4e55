"""The native protocol's connections."""
