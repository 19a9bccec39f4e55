"""Faults made in a running system, and what is true of each; for test_incidents.py and `python -m bench faults`."""
