"""`interp compare`: statistics on saved results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.app import (
    Json,
    OutFolder,
    Overwrite,
    Quiet,
    Resamples,
    RunFolder,
    Seed,
    Special,
    about,
    app,
    deliver,
    refuse_taken,
    split,
    wrote,
)


@app.command(rich_help_panel="On saved results")
def compare(
    folder: RunFolder,
    value: Annotated[str, typer.Option(help="Column to compare.")] = "angle",
    analysis: Annotated[
        str | None,
        typer.Option(
            help="Analysis whose table has it; by default rotation, where its table has it, else "
            "the only one that has it."
        ),
    ] = None,
    by: Annotated[str, typer.Option(help="Label column with the groups.")] = "role",
    a: Annotated[str, typer.Option("--a", help="Label of the first group.")] = "target",
    b: Annotated[str, typer.Option("--b", help="Label of the second group.")] = "previous",
    paired: Annotated[
        bool, typer.Option("--paired", help="Compare the means of the two groups within prompts.")
    ] = False,
    adjust: Annotated[
        str,
        typer.Option(
            help="Columns to compare at equal values of, by commas: zipf (--frequency), position."
        ),
    ] = "",
    special: Special = False,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    csv: Annotated[Path | None, typer.Option(help="File to write the whole table to.")] = None,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    _quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare two groups of tokens per layer, against shuffled labels."""
    from interp._files import atomic, refuse_existing
    from interp.runs.load import load
    from interp.stats.compare import compare as compare_groups
    from interp.stats.table import table_with

    refuse_taken(out_folder, overwrite)
    if csv is not None:
        refuse_existing(csv, folder=False)
    asked: dict[str, Any] = {"value": value, "between": by, "a": a, "b": b}
    asked |= {
        "adjust": split(adjust),
        "paired": paired,
        "special": special,
        "resamples": resamples,
        "seed": seed,
    }
    results = load(folder)
    chosen = analysis or table_with(results, value, usual="rotation")
    found = compare_groups(results[chosen], **asked)
    if csv is not None:
        with atomic(csv) as whole:
            found.frame.to_csv(whole, index=False)
        wrote([csv])
    told = about("compare", folder=str(folder), analysis=chosen, **asked)
    deliver(found.with_about(**told), out_folder, overwrite, as_json)
