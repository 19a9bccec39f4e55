"""The PulseAudio door: a server for PulseAudio clients in each guest."""
