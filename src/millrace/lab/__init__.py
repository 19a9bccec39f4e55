"""The laboratory: the listener's own code in virtual time, over bad networks and wrong clocks."""
