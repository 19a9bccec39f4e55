"""Who comes in to control: HTTP and the native protocol."""
