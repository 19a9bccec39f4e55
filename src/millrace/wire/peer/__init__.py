"""The peer protocol between daemon and listener, sans-IO."""
