"""The laboratory: runs the listener's own code in virtual time, with bad networks and inaccurate clocks."""
