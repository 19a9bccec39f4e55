"""The client's side of RFB (VNC) with QEMU audio, sans-IO."""
