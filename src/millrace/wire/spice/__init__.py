"""SPICE, the client side of main, playback and record channels, sans-IO."""
