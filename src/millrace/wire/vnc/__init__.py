"""RFB (VNC) with QEMU audio, the client side, sans-IO."""
