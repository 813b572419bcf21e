"""How fast `interp` is beside what it must do anyway, and beside other ways of doing the same.

`python -m benchmarks` measures and writes docs/benchmarks.md. Nothing here is part of the library
or of its tests, and no number in the document is written by hand.
"""
