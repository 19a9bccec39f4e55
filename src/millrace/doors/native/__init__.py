"""The native door: streams whose sound is in memory that is shared with the client."""
