"""Codecs: Opus through libopus, and PCM."""
