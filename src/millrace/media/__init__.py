"""The types of media data: formats, parameters, packets."""
