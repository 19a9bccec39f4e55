"""Effects: the one clock, the runner, sockets."""
