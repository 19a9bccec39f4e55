"""The control plane: commands on the guests of a process, and access to them. Opens no sockets."""
