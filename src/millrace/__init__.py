"""Millrace: the audio/video bus for virtual machines and remote desktops."""

__version__ = "0.1.0"
