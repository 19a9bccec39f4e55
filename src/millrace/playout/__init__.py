"""The receiving end of any media."""
