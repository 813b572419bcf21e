"""`interp inspect`, `list`, `check`, `calibrate`: a model, the analyses, and tests of these."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from interp.cli.app import (
    Device,
    Dtype,
    Json,
    OutFolder,
    Overwrite,
    Quiet,
    about,
    app,
    deliver,
    exit_code,
    out,
    print_json,
    print_table,
    refuse_taken,
)
from interp.errors import ContractError, InterpError


@app.command()
def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A model: demo, smollm2 (see interp get), a hub name, a folder or a .gguf file."
        ),
    ],
    device: Device = None,
    dtype: Dtype = "float32",
    _quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Show the measured facts of a model: its sites, norms, padding and tolerances."""
    from interp.models.load import load_model
    from interp.models.probe import inspect as measure

    anatomy = measure(load_model(model, device=device, dtype=dtype))
    if as_json:
        print_json(anatomy.to_json())
        return
    print_table(["fact", "measured"], anatomy.facts())
    for note in anatomy.caveats():
        out.print(f"• {note}", highlight=False, markup=False)


@app.command(name="list")
def list_registered(_quiet: Quiet = False, as_json: Json = False) -> None:
    """List the installed analyses."""
    from interp.contract.registry import describe

    rows = describe()
    if as_json:
        print_json(json.dumps(rows))
        return
    columns = ["name", "scope", "sites", "about", "package"]
    cells = [tuple(row[c] for c in columns) for row in rows]
    print_table(columns, cells, spare=("sites", "package"))


ONE_ANALYSIS = "Name of an analysis (interp list), or module:Class or path/file.py:Class."


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help=ONE_ANALYSIS)] = None,
    every: Annotated[bool, typer.Option("--all", help="Check all installed analyses.")] = False,
    _quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Test an analysis against the laws of the contract, without a model.

    The exit code is 3 if a law is broken, 2 for a name that is not known, and 1 if a class
    cannot be imported, so that its laws cannot be tested.
    """
    from interp.contract.registry import get, names

    if (name is None) == (not every):
        raise typer.BadParameter("name one analysis, or pass --all")
    if name is not None and name not in names():
        get(name)  # says which name is near
    outcomes = {each: _checked(each) for each in (names() if every else [str(name)])}
    if as_json:
        print_json(
            json.dumps(
                {n: {"passed": not code, "said": said} for n, (code, said) in outcomes.items()}
            )
        )
    else:
        for each, (_, said) in outcomes.items():
            out.print(f"{each}: {said}", highlight=False, markup=False)
    # A broken law is the worst: what cannot be imported may still keep them all.
    if worst := max(code for code, _ in outcomes.values()):
        raise typer.Exit(worst)


@app.command()
def calibrate(
    name: Annotated[str | None, typer.Argument(help=ONE_ANALYSIS)] = None,
    every: Annotated[bool, typer.Option("--all", help="Calibrate all that have phantoms.")] = False,
    folder: OutFolder = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Measure models whose geometry is known, and compare.

    The exit code is 3 if an analysis misses a known value, 2 for a name that is not known, and
    1 if a class cannot be imported.
    """
    from interp._progress import stage
    from interp.contract.registry import names

    if (name is None) == (not every):
        raise typer.BadParameter("name one analysis, or pass --all")
    refuse_taken(folder, overwrite)
    with stage(f"measuring phantoms for {name or 'all analyses'}", enabled=not (quiet or as_json)):
        from interp.runs.phantoms.calibrate import calibrate as measure

        broken = _broken() if every else {}
        found = measure([n for n in names() if n not in broken] if every else [str(name)])
    for reason in broken.values():
        found = found.with_note(f"not measured: {reason}")
    found = found.with_about(**about("calibrate", analyses=sorted(set(found.frame["analysis"]))))
    deliver(found, folder, overwrite, as_json)
    if not found.passed:
        raise typer.Exit(3)
    if broken:
        raise typer.Exit(1)


def _broken() -> dict[str, str]:
    """Installed analyses that cannot be loaded, with the reason."""
    from interp.contract.registry import names, resolve

    reasons = {}
    for name in names():
        try:
            resolve(name)
        except InterpError as error:
            reasons[name] = str(error)
    return reasons


def _checked(name: str) -> tuple[int, str]:
    """The exit code for an analysis, and what the check says."""
    from interp.runs.checks.checks import check_analysis

    try:
        return 0, str(check_analysis(name))
    except ContractError as error:
        return 3, str(error)
    except InterpError as error:
        return exit_code(error), str(error)
