"""The command line: `interp demo | run | series | inspect | list | report | explore | compare |
check | calibrate`, and a command for each experiment.

Thin: it parses, calls the library and prints; one file per family of commands. Exit codes: 0 done,
1 the request failed, 2 wrong usage or an unknown name (both with the reason), 3 an analysis has a
fault, 4 a corpus run or a series is done but some documents or members failed, 130 interrupted,
141 the reader of a pipe has gone.
"""

from interp.cli import compare, experiments, explore, get, inspect, run, series
from interp.cli.app import app, main

__all__ = ["app", "compare", "experiments", "explore", "get", "inspect", "main", "run", "series"]
