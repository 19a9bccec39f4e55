"""Virtual machines to which Millrace connects for their sound."""
