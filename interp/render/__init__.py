"""Figures, attention maps and the report: what to show, how much of it, and in which medium.

Importing this package imports no plotting library; `figures` and its neighbours do when they draw.
`figure_template()` is the plotly template of all figures, for figures of your own.
"""

from interp.render.style import template as figure_template

__all__ = ["figure_template"]
