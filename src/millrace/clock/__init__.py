"""Relations between clocks. Pure mathematics: no file here reads a clock."""
