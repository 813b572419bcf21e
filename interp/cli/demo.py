"""`interp demo`: the main analyses on an embedded model, with tables and one report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from interp.cli.app import tables_kept

if TYPE_CHECKING:
    from interp.runs.results import Results


ANALYSES = ("rotation", "path_length", "logit_lens", "attention", "random_pairs")


def show(
    model: str,
    folder: Path,
    *,
    control: str | None = "random-init",
    overwrite: bool = False,
    progress: bool = True,
) -> tuple[Results, list[Path]]:
    """Run the "her" sentences through `model` and its untrained copy, save tables and report.

    Returns the results and the paths that were written.
    """
    from interp._files import refuse_existing
    from interp.runs.run import run

    refuse_existing(folder, overwrite=overwrite)
    results = run(model, "her", list(ANALYSES), target="her", control=control, progress=progress)
    saved = results.save(folder, overwrite=overwrite)
    with tables_kept(saved):
        return results, [saved, results.report(saved / "report.html", small=True)]
