"""The PulseAudio door."""
