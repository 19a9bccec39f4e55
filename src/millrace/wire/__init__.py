"""Sans-IO protocols: bytes to events and back. Time is an argument."""
