"""Figures of experiments: a coefficient over layers, groups over layers, each with its control.

The numbers come from `interp.experiments` and are not computed again here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from interp.errors import unknown
from interp.render import style
from interp.render.lines import add_band, ends, name_lines, y_limits
from interp.render.selection import MOST_GROUPS
from interp.render.tokens import escape

if TYPE_CHECKING:
    from interp.experiments import GroupComparison, PathPrediction

COEFFICIENTS = ("pearson", "spearman", "partial_pearson", "partial_spearman")
UPPER, LOWER = 320, 150


def prediction_figure(found: PathPrediction, coefficient: str = "spearman") -> Any:
    """A panel per outcome: the coefficient with its band, and the band of shuffled outcomes.

    Raises `UnknownName` for a coefficient that is not there.
    """
    known = [c for c in COEFFICIENTS if c in found.frame]
    if coefficient not in known:
        raise unknown("coefficient", coefficient, known)
    partial = coefficient.startswith("partial_")
    title = f"{found.value} up to each layer and the next token: {coefficient.replace('_', ' ')}"
    if "stack" in found.frame and len(set(found.frame["stack"])) > 1:
        return style.empty(title, "There are several stacks: read the table.")
    panels = {str(o): rows for o, rows in found.frame.groupby("outcome", sort=False)}
    figure = _panels(list(panels))
    lines = {o: _lines(rows, coefficient) for o, rows in panels.items()}
    limits = y_limits(*(table for pair in lines.values() for table in pair))
    for i, (outcome, (null, rows)) in enumerate(lines.items(), start=1):
        where = {"row": 1, "col": i}
        add_band(figure, "shuffled", null, style.CONTROL, **where)
        add_band(figure, outcome, rows, style.PALETTE[0], **where)
        figure.update_yaxes(range=list(limits), zeroline=True, **where)
    figure.update_xaxes(title_text="block", dtick=_step(found.frame))
    figure.update_layout(hovermode="x unified", yaxis_title_text="correlation")
    taken = f" {', '.join(found.partial)} taken out." if partial else ""
    caption = (
        f"{int(found.frame['n'].max()):,} tokens of {int(found.frame['prompts'].max())} prompts. "
        f"Bands: {found.confidence:.0%} by resampling whole prompts. Grey: outcomes shuffled "
        f"within prompts.{taken} At the last block it is the whole {found.value}."
    )
    return style.dressed(figure, title, caption, height=340)


def _panels(names: list[str]) -> Any:
    from plotly.subplots import make_subplots

    figure = make_subplots(
        cols=len(names),
        shared_yaxes=True,
        horizontal_spacing=0.035,
        subplot_titles=[escape(n) for n in names],
    )
    figure.update_annotations(font={"size": 13})
    figure.update_layout(meta={"panels": len(names)})
    return figure


def _lines(rows: pd.DataFrame, coefficient: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The band of the shuffles, and the coefficient with its own."""
    low, high = rows[f"{coefficient}_shuffled_low"], rows[f"{coefficient}_shuffled_high"]
    base = {"x": rows["layer"], "n": rows["n"]}
    null = pd.DataFrame(base | {"mean": (low + high) / 2, "low": low, "high": high})
    own = {"mean": rows[coefficient]}
    own |= {side: rows[f"{coefficient}_{side}"] for side in ("low", "high")}
    return null, pd.DataFrame(base | own)


def groups_figure(found: GroupComparison) -> Any:
    """The mean of each group over layers with its band; below, η² against shuffled labels."""
    title = f"{found.value} by {found.by}"
    if found.rows != ("layer",) or len(found.tests) < 2:
        return style.empty(title, "There are no layers of one stack to draw: read the table.")
    from plotly.subplots import make_subplots

    figure = make_subplots(
        rows=2,
        shared_xaxes=True,
        row_heights=[UPPER, LOWER],
        vertical_spacing=0.11,
        subplot_titles=["mean of each group", "variance between groups (η²)"],
    )
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})
    _draw_groups(figure, found)
    _draw_eta(figure, found)
    figure.update_xaxes(dtick=_step(found.tests))
    figure.update_xaxes(title_text="block", row=2, col=1)
    figure.update_layout(hovermode="x unified", meta={"panels": 2})
    few = len(found.groups) - MOST_GROUPS
    caption = (
        f"{int(found.tests['n'].max()):,} {found.level}s. Bands: {found.confidence:.0%} for the "
        f"mean, prompts being the unit that was sampled. Grey: η² of labels shuffled within "
        f"prompts, mean. ★, by permutation within prompts: {found.finding()}."
        + (f" The {MOST_GROUPS} largest groups; {few} smaller ones are not drawn." * (few > 0))
    )
    return style.dressed(figure, title, caption, height=UPPER + LOWER + 90)


def _draw_groups(figure: Any, found: GroupComparison) -> None:
    names = [str(g) for g in found.groups[:MOST_GROUPS]]
    palette = style.colours(names)
    frame = found.frame.rename(columns={"layer": "x"})
    lines = {name: frame[frame[found.by].astype(str) == name] for name in names}
    limits = y_limits(*lines.values())
    for name, rows in lines.items():
        add_band(figure, name, rows, palette[name], row=1, col=1)
    name_lines(figure, ends(lines), palette, limits, height=UPPER)
    figure.update_yaxes(range=list(limits), row=1, col=1)


def _draw_eta(figure: Any, found: GroupComparison) -> None:
    import plotly.graph_objects as go

    tests = found.tests
    hits = found.differs
    for name, column, colour in (
        ("shuffled labels", "shuffled_eta2", style.CONTROL),
        ("η²", "eta2", style.INK),
    ):
        figure.add_trace(
            go.Scatter(
                x=tests["layer"].tolist(),
                y=style.rounded(tests[column]),
                mode="lines+markers+text" if column == "eta2" else "lines",
                text=["★" if hit else "" for hit in hits],
                textposition="top center",
                line={"color": colour, "width": 2},
                name=name,
                showlegend=False,
                hovertemplate="%{y:.3g}",
            ),
            row=2,
            col=1,
        )
    most = float(tests[["eta2", "shuffled_eta2"]].max().max())
    figure.update_yaxes(range=[0, 1.25 * most], row=2, col=1)  # room for the stars


def _step(frame: pd.DataFrame) -> int:
    return max(1, round(float(frame["layer"].max() - frame["layer"].min()) / 12))
