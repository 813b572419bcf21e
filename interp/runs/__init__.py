"""Runs: five ways to feed one collector, and what comes of it.

Their names stand at the top: `interp.run`, `attach`, `from_cache`, `run_corpus`, `load`.
"""
