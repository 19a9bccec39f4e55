"""Clocks against each other: pure maths, no file here reads a clock."""
