"""The client's side of SPICE's channels, sans-IO: main, playback and record, display, cursor and inputs."""
