"""Test kit: known signals, signal analysis, simulated parts. Used only by tests and the laboratory."""
