"""`python -m millrace` is `millrace`."""

from millrace.cli.entry import main

main()
