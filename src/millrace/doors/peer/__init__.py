"""Sound that comes by the peer protocol: played by listeners, and their microphones in the daemon."""
