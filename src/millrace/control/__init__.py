"""What may be done to the guests of a process, and who may do it. Opens no socket."""
