"""QEMU's D-Bus display interface and QMP, sans-IO."""
