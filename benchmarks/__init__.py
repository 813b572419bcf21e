"""Speed and memory of `interp`, compared with the bare model and with other implementations.

`python -m benchmarks` measures and writes docs/benchmarks.md. Nothing here is part of the library
or of its tests, and no number in the document is written by hand.
"""
