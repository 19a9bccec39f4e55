"""The client's side of RFB (VNC), with pictures and QEMU's audio, sans-IO."""
