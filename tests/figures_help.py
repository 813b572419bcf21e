"""What tests of figures and of the report read of a figure or a result."""

from __future__ import annotations

from interp.render.draw import figure as drawn
from interp.stats.comparison import comparison_drawing


def comparison_picture(*args, **options):
    return drawn(comparison_drawing(*args, **options))


def named(figure):
    """Lines by name; bands have none."""
    return {t.name: t for t in figure.data if t.name}


def plain(result):
    """The table without special tokens."""
    return result.frame[~result.frame["special"]]
