"""Benchmarks that print ratios against a peer or a floor in the same run. `python -m bench [name …]`."""
