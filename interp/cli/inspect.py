"""`interp inspect`, `list` and `check`: facts of a model, analyses, and their contract."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from interp.cli.app import Json, app, out, print_json, print_table
from interp.errors import InterpError


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A model: demo, smollm2 (see interp get), a hub name, a folder or a .gguf file."
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show the measured facts of a model: its sites, norms, padding and tolerances."""
    from interp.models.load import load_model
    from interp.models.probe import inspect as measure

    anatomy = measure(load_model(model))
    if as_json:
        print_json(anatomy.to_json())
        return
    print_table(["fact", "measured"], anatomy.facts())
    for note in anatomy.caveats():
        out.print(f"• {note}", highlight=False, markup=False)


@app.command(name="list")
def list_registered(as_json: Json = False) -> None:
    """List the installed analyses."""
    from interp.contract.registry import describe

    rows = describe()
    if as_json:
        print_json(json.dumps(rows))
        return
    columns = ["name", "scope", "sites", "about", "package"]
    print_table(columns, [tuple(row[c] for c in columns) for row in rows])


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Name of an installed analysis.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check all installed analyses.")] = False,
) -> None:
    """Test an analysis against the laws of the contract, without a model."""
    from interp.contract.registry import names, resolve
    from interp.runs.checks.checks import check_analysis

    if (name is None) == (not every):
        raise typer.BadParameter("name one analysis, or pass --all")
    failed = 0
    for each in names() if every else [str(name)]:
        try:
            for analysis in resolve(each).values():
                out.print(f"{each}: {check_analysis(analysis)}", highlight=False, markup=False)
        except InterpError as error:
            failed += 1
            out.print(f"{each}: {error}", highlight=False, markup=False)
    if failed:
        raise typer.Exit(3)
