"""Where sound leaves the graph."""
