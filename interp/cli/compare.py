"""`interp compare`: statistics on saved results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    out,
    print_json,
    refuse_taken,
    wrote,
)

if TYPE_CHECKING:
    from interp.render.finding import Sheet
    from interp.stats.comparison import Comparison


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
    if out_folder is not None:
        asked = {"folder": str(folder), "analysis": analysis} | asked
        _sheet(found, asked).write(out_folder, overwrite=overwrite)
    if as_json:
        print_json(found.frame.to_json(orient="records"))
    else:
        out.print(repr(found), highlight=False, markup=False)
        wrote([*([csv] if csv else []), *([out_folder / "report.html"] if out_folder else [])])


def _sheet(found: Comparison, asked: dict[str, Any]) -> Sheet:
    from interp.render.finding import Sheet

    return Sheet(
        "compare",
        repr(found),
        {"compare": found.frame, "clusters": found.clusters},
        {f"{found.value}: {found.a} against {found.b}": found.plot},
        lead=f"Does {found.value} differ between {found.a} and {found.b} tokens?",
        notes=found.notes,
        about=about("compare", **asked),
    )
