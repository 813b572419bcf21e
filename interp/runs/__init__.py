"""Runs: five ways to feed one collector, and what comes of it."""
