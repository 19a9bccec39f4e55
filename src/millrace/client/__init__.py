"""Client libraries: the listener, the native client, and a small PulseAudio client."""
