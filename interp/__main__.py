"""`python -m interp`: the command line."""

from interp.cli import main

main()
