"""The native door: streams whose sound is in memory shared with the client."""
