"""Pictures: rectangles, what changed, colour conversion. Pure."""
