"""`interp compare`: statistics on saved results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli.app import (
    Json,
    OutFolder,
    Overwrite,
    Resamples,
    Seed,
    Special,
    about,
    app,
    deliver,
    refuse_taken,
    wrote,
)


@app.command()
def compare(
    folder: Annotated[Path, typer.Argument(help="Folder that a run wrote.")],
    value: Annotated[str, typer.Option(help="Column to compare.")] = "angle",
    analysis: Annotated[str, typer.Option(help="The table it is in.")] = "rotation",
    between: Annotated[str, typer.Option(help="Label column.")] = "role",
    a: Annotated[str, typer.Option("-a", "--a", help="First group.")] = "target",
    b: Annotated[str, typer.Option("-b", "--b", help="Second group.")] = "previous",
    paired: Annotated[
        bool, typer.Option("--paired", help="Pair the groups within prompts.")
    ] = False,
    special: Special = False,
    resamples: Resamples = 2000,
    seed: Seed = 0,
    csv: Annotated[Path | None, typer.Option(help="Write the whole table as CSV.")] = None,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare two groups of tokens per layer, corrected, with the shuffled control."""
    from interp._files import atomic, refuse_existing
    from interp.runs.load import load
    from interp.stats.compare import compare as compare_groups

    refuse_taken(out_folder, overwrite)
    if csv is not None:
        refuse_existing(csv, folder=False)
    asked: dict[str, Any] = {"value": value, "between": between, "a": a, "b": b}
    asked |= {"paired": paired, "special": special, "resamples": resamples, "seed": seed}
    found = compare_groups(load(folder)[analysis], **asked)
    if csv is not None:
        with atomic(csv) as whole:
            found.frame.to_csv(whole, index=False)
        wrote([csv])
    told = about("compare", folder=str(folder), analysis=analysis, **asked)
    deliver(found.with_about(**told), out_folder, overwrite, as_json)
