"""The native protocol, sans-IO: messages, both ends of a connection, and the ring buffer in shared memory."""
