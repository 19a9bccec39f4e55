"""Doors: where guests connect. They translate protocol events into graph verbs."""
