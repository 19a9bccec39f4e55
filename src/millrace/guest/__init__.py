"""One guest: its graph, doors, listeners and machines."""
