"""Figures, attention maps and the report: what to show, how much of it, and in which medium.

Importing this package imports no plotting library; `figures` and its neighbours do when they draw.
"""
