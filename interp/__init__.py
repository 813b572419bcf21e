"""Measure the residual stream of TransformerLens models."""

__version__ = "0.1.0"
