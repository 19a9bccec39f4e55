"""A listener's audio outputs and inputs: sound devices, files, pipes, null."""
