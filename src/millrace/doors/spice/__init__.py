"""The SPICE door."""
