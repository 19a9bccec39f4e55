"""Observes guests and explains what happens in them. Changes nothing."""
