"""Where guests come in: protocol events to graph verbs."""
