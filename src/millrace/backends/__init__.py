"""What a listener plays on: devices, files, nothing."""
