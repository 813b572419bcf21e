"""Options of `interp run` that compare pairs of prompts, and the run itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from interp._progress import stage
from interp.cli.app import about, deliver, refuse_taken, split, wrote
from interp.errors import BadInput

PANEL = "Pairs of prompts (--pairs)"
SOME_FAILED = 4

PairsFile = Annotated[
    str | None,
    typer.Option(
        "--pairs",
        help="A file (.csv .jsonl .parquet) with pairs of prompts, in the columns clean and "
        "corrupted (or base and contrast), and optionally answer, wrong and labels. With --keep "
        "summary pairs in any number, in shards: --by, --workers, --shard-documents, --resume.",
        rich_help_panel=PANEL,
    ),
]
Align = Annotated[
    str | None,
    typer.Option(
        help="Alignment of sides of different length: ends (what is equal at both ends).",
        rich_help_panel=PANEL,
    ),
]
Read = Annotated[
    str,
    typer.Option(
        help="Aligned tokens to take means of, by commas: all, before, changed, after, last; by "
        "default all but those before the first difference.",
        rich_help_panel=PANEL,
    ),
]
Answer = Annotated[
    str | None,
    typer.Option(
        help='The right answer to every clean prompt, one token such as " her".',
        rich_help_panel=PANEL,
    ),
]
Wrong = Annotated[
    str | None,
    typer.Option(help="The wrong answer that it is compared with.", rich_help_panel=PANEL),
]
Patch = Annotated[
    bool,
    typer.Option(
        "--patch/--no-patch",
        help="Put single states of the clean run into the corrupted one.",
        rich_help_panel=PANEL,
    ),
]
UNSET: dict[str, Any] = {"align": None, "read": "", "answer": None, "wrong": None, "patch": True}
NAMES = {"patch": "--no-patch"}


def asked(file: str | None, others: Mapping[str, Any], **options: Any) -> dict[str, Any] | None:
    """The options of pairs for `interp.pairs`, None without `--pairs`.

    Args:
        others: options of other kinds of run by their flags, each with what was given.

    Raises `BadInput` for options of pairs without pairs, and of other runs with them.
    """
    given = [name for name, value in options.items() if value != UNSET[name]]
    if file is None:
        if given:
            flags = (NAMES.get(name, f"--{name}") for name in given)
            raise BadInput(f"{', '.join(flags)}: only with --pairs")
        return None
    if clash := [flag for flag, value in others.items() if value]:
        raise BadInput(f"{', '.join(clash)}: not with --pairs, which reads both sides from FILE")
    read = split(options["read"])
    return options | {"read": "all" if read == ["all"] else read or None}


STREAMING = ("workers", "threads", "resume", "shard_documents")
"""Options of a corpus that pairs in shards take too."""


def in_shards(file: str | None, keep: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `interp.pairs` for a summary of pairs; none where none is asked for.

    Args:
        options: of a corpus, and `by`.
    """
    if file is None or keep != "summary":
        return {}
    return {name: options[name] for name in (*STREAMING, "by")} | {"keep": keep}


def run_pairs(
    model: str, file: str, analyses: list[Any], folder: Path, overwrite: bool, as_json: bool,
    options: dict[str, Any],
) -> None:  # fmt: skip
    """Compare the pairs of a file, print the finding and write it into the folder."""
    if "keep" in options:
        _summary(model, file, analyses, folder, overwrite, as_json, options)
        return
    refuse_taken(folder, overwrite)
    with stage(
        f"loading {model}", enabled=options["progress"] and not as_json
    ):  # the libraries take seconds
        from interp.experiments.pairs import pairs

    found = pairs(model, file, analyses, **options)
    unread = ("progress", "model_options")
    told = {name: value for name, value in options.items() if name not in unread}
    origin = about("pairs", model=model, pairs=file, **told)
    deliver(found.with_about(**origin), folder, overwrite, as_json)


def _summary(
    model: str, file: str, analyses: list[Any], folder: Path, overwrite: bool, as_json: bool,
    options: dict[str, Any],
) -> None:  # fmt: skip
    """Measure pairs in shards, and print the finding; exit code 4 if pairs failed."""
    from interp.experiments.pair_finding import PairsSummary
    from interp.experiments.pairs import pairs
    from interp.runs.corpus.sharded import FINDING

    given = dict(options)
    given["shard_pairs"] = given.pop("shard_documents")
    # Where nobody asks for patches: a summary takes none.
    given["patch"] = None if given["patch"] else False
    found = pairs(model, file, analyses, out=folder, overwrite=overwrite, **given)
    deliver(found, None, overwrite, as_json)
    if not as_json:
        wrote([folder / FINDING / "report.html"])
    if isinstance(found, PairsSummary) and len(found.failures):
        raise typer.Exit(SOME_FAILED)
