"""Reads guests and says why. Changes nothing."""
