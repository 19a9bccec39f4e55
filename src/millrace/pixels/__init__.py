"""Pictures: rectangles, damage, colour conversion. No I/O."""
