"""The PulseAudio native protocol, sans-IO."""
