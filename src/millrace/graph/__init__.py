"""The audio graph: nodes, links, the plan and the cycle."""
