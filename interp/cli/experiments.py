"""Experiments on saved results: `interp groups`, `predict`, `growth`, `depth`, `heads`, `rollout`.

Where the run had a control, the same is computed on what the untrained copy gave.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.app import (
    Json,
    OutFolder,
    Overwrite,
    Resamples,
    RunFolder,
    Seed,
    Special,
    about,
    app,
    deliver,
    refuse_taken,
    split,
)
from interp.errors import BadInput, unknown

if TYPE_CHECKING:
    import pandas as pd


PANEL = "On saved results"
UNTRAINED = "untrained"


def measured(folder: Path, measure: Callable[[Any], Any]) -> tuple[Any, dict[str, Any], list[str]]:
    """`measure` of saved results; by name that of the untrained copy, if any; and notes."""
    from interp.runs.load import load

    results = load(folder)
    found, control = measure(results), getattr(results, "control", None)
    if control is None:
        return found, {}, []
    try:
        return found, {UNTRAINED: measure(control)}, []
    except BadInput as error:
        return found, {}, [f"untrained copy: {error}"]


def said(control: dict[str, Any]) -> list[str]:
    """The finding of the untrained copy, in a sentence."""
    return [f"{name} copy: {found.sentence}" for name, found in control.items()]


def beside(
    tables: dict[str, pd.DataFrame], control: dict[str, dict[str, pd.DataFrame]]
) -> dict[str, pd.DataFrame]:
    """The tables, and those of the untrained copy under their own names."""
    return tables | {
        f"{name}_{kind}": table for kind, of in control.items() for name, table in of.items()
    }


@app.command(rich_help_panel=PANEL)
def groups(
    folder: RunFolder,
    value: Annotated[str, typer.Option(help="Column to compare.")] = "angle",
    by: Annotated[str, typer.Option(help="Label column, such as pos.")] = "pos",
    only: Annotated[str, typer.Option(help="These groups only, separated by commas.")] = "",
    level: Annotated[str, typer.Option(help="word or token.")] = "word",
    total: Annotated[str | None, typer.Option(help="Over layers: last, sum or mean.")] = None,
    pairs: Annotated[bool, typer.Option("--pairs", help="Also compare every pair.")] = False,
    special: Special = False,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare a value between groups of words, such as parts of speech, per layer and in total."""
    from interp.experiments.groups import by_group
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    options: dict[str, Any] = {"level": level, "total": total, "groups": split(only) or None}
    options |= {"special": special, "resamples": resamples, "seed": seed}
    found, control, notes = measured(folder, lambda r: by_group(r, value, by, **options))

    def tables(x: Any) -> dict[str, pd.DataFrame]:
        of = {"groups": x.frame, "tests": x.tests, "total": x.total, "total_test": x.total_test}
        return of | ({"pairs": x.pairs} if pairs else {})

    text = "\n".join([repr(found), *said(control)])
    sheet = Sheet(
        "groups",
        text,
        beside(tables(found), {name: tables(c) for name, c in control.items()}),
        {f"{value} by {by}": found.plot, **{f"{n} copy": c.plot for n, c in control.items()}},
        lead=f"Does {value} differ between groups of {by}? Words of a prompt are not independent: "
        "intervals and shuffles take the prompt as the unit.",
        notes=(*found.notes, *notes),
        about=about("groups", folder=str(folder), value=value, by=by, **options),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@app.command(rich_help_panel=PANEL)
def predict(
    folder: RunFolder,
    value: Annotated[str, typer.Option(help="Column of the path to follow.")] = "path",
    outcomes: Annotated[str, typer.Option(help="Of logit, log_prob, rank.")] = "",
    partial_on: Annotated[
        str, typer.Option("--partial", help="Covariates that are taken out; none for none.")
    ] = "position,log_frequency,next_log_frequency",
    coefficient: Annotated[
        str | None, typer.Option(help="What the figure shows, such as spearman.")
    ] = None,
    special: Special = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Correlate the path of a token with how well the model predicts what comes next."""
    from interp.experiments.path_prediction import path_prediction
    from interp.render.finding import Sheet
    from interp.render.two_panels import COEFFICIENTS

    refuse_taken(out_folder, overwrite)
    covariates = [] if partial_on == "none" else split(partial_on)
    shown = coefficient or ("partial_spearman" if covariates else "spearman")
    kinds = [c for c in COEFFICIENTS if covariates or not c.startswith("partial_")]
    if shown not in kinds:
        raise unknown("coefficient", shown, kinds)
    options: dict[str, Any] = {"value": value, "partial": covariates, "special": special}
    options |= {"outcomes": split(outcomes) or None, "resamples": resamples, "seed": seed}
    found, control, notes = measured(folder, lambda r: path_prediction(r, **options))
    figures = {f"{value} and the next token": partial(found.plot, shown)}
    figures |= {f"{name} copy": partial(c.plot, shown) for name, c in control.items()}
    sheet = Sheet(
        "predict",
        "\n".join([repr(found), *said(control)]),
        beside({"predict": found.frame}, {n: {"predict": c.frame} for n, c in control.items()}),
        figures,
        lead="Do tokens whose state travels far predict the next token well?",
        notes=(*found.notes, *notes),
        about=about("predict", folder=str(folder), **options),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@app.command(rich_help_panel=PANEL)
def growth(
    folder: RunFolder,
    by: Annotated[str | None, typer.Option(help="Label column; one mean per label.")] = None,
    special: Special = False,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Growth of the norm per layer, beside steps at right angles to the stream."""
    from interp.experiments.growth import growth_rate
    from interp.render.bars import bars_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    found, control, notes = measured(folder, lambda r: growth_rate(r, by=by, special=special))
    mean = found.mean
    keys = [c for c in mean if c in ("stack", by)]
    named = mean.assign(
        name=mean[[*keys, "value"]].astype(str).agg(" · ".join, axis=1),
    )
    rates = named[named["value"] != "factor"]
    draw = partial(
        bars_figure,
        rates,
        "name",
        "mean",
        band=("low", "high"),
        title="Growth of the norm",
        unit="slope of ln‖x‖ per layer",
        caption="Bands: 95 %, the prompt being the unit. orthogonal_growth: the same steps, at "
        "right angles to the stream.",
    )
    sheet = Sheet(
        "growth",
        "\n".join([repr(found), *said(control)]),
        beside(
            {"growth": mean, "tokens": found.frame},
            {n: {"growth": c.mean} for n, c in control.items()},
        ),
        {"Growth per layer": draw},
        lead="How fast does the norm of the residual stream grow with depth?",
        notes=(*found.notes, *notes),
        about=about("growth", folder=str(folder), by=by, special=special),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@app.command(rich_help_panel=PANEL)
def depth(
    folder: RunFolder,
    by: Annotated[str | None, typer.Option(help="Label column; one line per label.")] = None,
    special: Special = False,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """From which state on the prediction of the logit lens stays what the model says in the end."""
    from interp.experiments.depth import decided, decision_depth
    from interp.render.bars import lines_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    found, control, notes = measured(folder, lambda r: decision_depth(r["logit_lens"]))
    table = decided(found, by, special=special)
    others = {name: decided(c, by, special=special) for name, c in control.items()}
    key = by or "stack"
    lines = {str(n): rows for n, rows in table.groupby(key)} if key in table else {"all": table}
    controls: dict[str, pd.DataFrame] = {}
    for name, other in others.items():
        controls |= (
            {f"{n}, {name}": r for n, r in other.groupby(key)} if key in other else {name: other}
        )
    draw = partial(
        lines_figure,
        {
            n: r.rename(columns={"layer": "x", "decided": "mean"})
            for n, r in (lines | controls).items()
        },
        title="Decided by then",
        x="state",
        unit="share of tokens",
        caption="Share of tokens whose most probable next token stays the final one from that "
        "state on. Bands: 95 %, the prompt being the unit.",
        controls=list(controls),
    )
    text = (
        f"{_median(found, special)}\n{table.to_string(index=False, float_format='{:.4g}'.format)}"
    )
    text += "".join(f"\n{name} copy: {_median(c, special)}" for name, c in control.items())
    sheet = Sheet(
        "depth",
        text,
        beside({"depth": table, "tokens": found}, {n: {"depth": t} for n, t in others.items()}),
        {"Decided by then": draw},
        lead="From which state on is the most probable next token what the model says in the end?",
        notes=tuple(notes),
        about=about("depth", folder=str(folder), by=by, special=special),
    )
    deliver(sheet, out_folder, overwrite, as_json)


def _median(found: pd.DataFrame, special: bool) -> str:
    from interp.stats.table import is_special

    rows = found[~is_special(found, special)]
    return f"median decision depth: state {rows['decision_depth'].median():g} ({len(rows)} tokens)"


@app.command(rich_help_panel=PANEL)
def heads(
    folder: RunFolder,
    threshold: Annotated[float, typer.Option(help="Least excess over even attention.")] = 0.3,
    special: Special = False,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Which heads look at the previous token, at copies, after copies, or at the first token."""
    from interp.experiments.heads import head_types
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    options: dict[str, Any] = {"threshold": threshold, "special": special}
    options |= {"resamples": resamples, "seed": seed}
    found, control, notes = measured(folder, lambda r: head_types(r["attention"], **options))
    typed = found[found["typed"]]
    shown = typed[["layer", "head", "kind", "score", "score_low", "score_high", "uniform"]]
    text = f"{_heads_of(typed)} of {_heads_of(found)} heads are of a type"
    several = typed[typed["types"].str.contains("+", regex=False)]
    text += f", {_heads_of(several)} of several\n" if len(several) else "\n"
    text += shown.to_string(index=False, float_format="{:.3g}".format) if len(shown) else ""
    for name, c in control.items():
        text += f"\n{name} copy: {_heads_of(c[c['typed']])} heads are of a type"
    sheet = Sheet(
        "heads",
        text,
        beside({"heads": found}, {n: {"heads": c} for n, c in control.items()}),
        {"Excess over even attention": partial(_heads_figure, found)}
        | {f"{n} copy": partial(_heads_figure, c) for n, c in control.items()},
        lead="What does each head look at, beyond what even attention gives?",
        notes=tuple(notes),
        about=about("heads", folder=str(folder), **options),
    )
    deliver(sheet, out_folder, overwrite, as_json)


def _heads_of(rows: pd.DataFrame) -> int:
    """How many different heads a table of `head_types` has."""
    return len(rows.drop_duplicates([c for c in ("stack", "layer", "head") if c in rows]))


def _heads_figure(found: pd.DataFrame) -> Any:
    from interp.render.bars import matrices_figure

    kinds = {
        str(kind): rows.pivot_table(index="layer", columns="head", values="excess", dropna=False)
        for kind, rows in found.groupby("kind", sort=False)
    }
    first = next(iter(kinds.values()))
    return matrices_figure(
        kinds,
        x=[str(c) for c in first.columns],
        y=[str(i) for i in first.index],
        titles=("head", "block"),
        title="What heads look at",
        unit="excess",
        top=1.0,
        caption="(score − even) / (1 − even): 1 for all attention, 0 for what even attention "
        "over the allowed keys gives.",
    )


@app.command(rich_help_panel=PANEL)
def rollout(
    folder: RunFolder,
    prompt: Annotated[int | None, typer.Option(help="Number of a kept prompt.")] = None,
    residual: Annotated[float, typer.Option(help="Weight of the stream that passes by.")] = 0.5,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Attention rolled out over the blocks, beside even attention."""
    from interp.experiments.heads import rollout_table
    from interp.render.bars import matrices_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    found, control, notes = measured(
        folder, lambda r: rollout_table(r["attention"], prompt, residual=residual)
    )
    last = found[found["layer"] == found["layer"].max()]
    maps = {
        name: last.pivot_table(index="query", columns="key", values=name)
        for name in ("rollout", "even")
    }
    texts = last.drop_duplicates("query")["token"].tolist()
    draw = partial(
        matrices_figure,
        maps,
        x=texts,
        y=texts,
        titles=("has come from", "token"),
        title="Rollout over all blocks",
        unit="share",
        caption=f"Prompt {int(last['prompt'].iloc[0])}. Right: even attention in every block. "
        "MLPs and values are taken as mixing nothing.",
    )
    text = f"prompt {int(last['prompt'].iloc[0])}, over all blocks, the largest shares\n"
    top = last.sort_values("rollout", ascending=False).head(12)
    text += top[["token", "key_token", "rollout", "even"]].to_string(index=False)
    sheet = Sheet(
        "rollout",
        text,
        beside({"rollout": found}, {n: {"rollout": c} for n, c in control.items()}),
        {"Where each token has come from": draw},
        lead="How much of each token's state has come from which position, if attention alone "
        "moved things?",
        notes=tuple(notes),
        about=about("rollout", folder=str(folder), prompt=prompt, residual=residual),
    )
    deliver(sheet, out_folder, overwrite, as_json)
