"""Faults for a running system, each with its true stage, cause and time; for test_incidents.py and `bench faults`."""
