"""Outlets: where sound leaves the graph."""
