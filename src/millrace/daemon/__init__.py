"""The daemon: composition root, configuration, API."""
