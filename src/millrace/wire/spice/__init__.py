"""The client's side of SPICE's main, playback and record channels, sans-IO."""
