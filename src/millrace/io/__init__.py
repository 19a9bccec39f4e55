"""Everything with side effects: the clock, the runner, sockets."""
