"""Test kit: known signals, the analyser, virtual parts. Only tests import it."""
