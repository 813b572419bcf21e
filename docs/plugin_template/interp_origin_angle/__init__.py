"""Analyses of this package; each is one file and one line of pyproject.toml."""
