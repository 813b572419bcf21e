"""`interp compare`: statistics on saved results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.shared import Json, app, out, wrote


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
    csv: Annotated[Path | None, typer.Option(help="Write the whole table as CSV.")] = None,
    as_json: Json = False,
) -> None:
    """Compare two groups of tokens per layer, corrected, with the shuffled control."""
    from interp.results import load, refuse_existing
    from interp.stats import compare as compare_groups

    found = compare_groups(
        load(folder)[analysis], value=value, between=between, a=a, b=b, paired=paired
    )
    if csv is not None:
        refuse_existing(csv)
        found.frame.to_csv(csv, index=False)
    if as_json:
        out.print_json(found.frame.to_json(orient="records"))
    else:
        out.print(repr(found), highlight=False, markup=False)
        wrote([csv] if csv else [])
