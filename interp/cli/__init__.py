"""The command line: `interp demo | run | inspect | list | report | compare | check`.

Thin: it parses, calls the library and prints; one file per family of commands. Exit codes: 0 done,
1 the request was refused or failed (the message says why), 2 wrong usage, 3 a check or comparison
found what it looks for.
"""

from interp.cli import asking, comparing, running
from interp.cli.shared import app, main

__all__ = ["app", "asking", "comparing", "main", "running"]
