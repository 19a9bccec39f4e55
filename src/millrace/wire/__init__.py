"""Sans-IO protocols: bytes to events, messages to bytes. Time is an argument."""
