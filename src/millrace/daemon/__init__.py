"""The daemon: composition root, configuration, HTTP sockets."""
