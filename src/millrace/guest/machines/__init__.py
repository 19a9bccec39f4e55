"""Virtual machines whose sound is fetched."""
