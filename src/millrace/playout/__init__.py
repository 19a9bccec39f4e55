"""The receiving end of a stream: reordering, decoding, the jitter buffer and clock adaptation."""
