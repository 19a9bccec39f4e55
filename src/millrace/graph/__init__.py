"""The graph: nodes, links, the plan and the cycle."""
