"""`interp run --corpus`: the options of corpus runs, and what is printed of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.shared import err, out, print_json, print_table, wrote
from interp.errors import BadInput

if TYPE_CHECKING:
    from interp.corpus import CorpusRun

PANEL = "Corpus (--corpus)"
SOME_FAILED = 4

Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="Instead of --prompts, of any size: a .jsonl .parquet .csv .txt file, a folder or "
        "glob of them, hf:NAME; streamed, in shards, resumable.",
        rich_help_panel=PANEL,
    ),
]
Long = Annotated[
    str,
    typer.Option(
        help="Documents longer than the context: split, cut or refuse.", rich_help_panel=PANEL
    ),
]
Overlap = Annotated[
    int,
    typer.Option(help="Tokens a chunk repeats as context (long: split).", rich_help_panel=PANEL),
]
Workers = Annotated[
    int, typer.Option(help="Processes, or Ray actors with --ray.", rich_help_panel=PANEL)
]
Ray = Annotated[
    str | None, typer.Option(help="local, or a cluster's address.", rich_help_panel=PANEL)
]
Gpus = Annotated[float, typer.Option(help="GPUs per Ray actor.", rich_help_panel=PANEL)]
Threads = Annotated[
    int, typer.Option(help="Threads of the arithmetic in each worker.", rich_help_panel=PANEL)
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out.", rich_help_panel=PANEL)
]
ShardDocuments = Annotated[
    int | None,
    typer.Option(help="Documents per shard; by default 1 MB of text.", rich_help_panel=PANEL),
]
TextColumn = Annotated[str, typer.Option(help="The column with the text.", rich_help_panel=PANEL)]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split of a data set with several.", rich_help_panel=PANEL),
]


def check_choice(prompts: str | None, corpus: str | None, **others: Any) -> None:
    """Not both, and no corpus option without a corpus.

    Raises `BadInput`.
    """
    if prompts is not None and corpus is not None:
        raise BadInput("name what to run on: --prompts (a few) or --corpus (any size), one of both")
    if corpus is None:
        given = [f"--{name.replace('_', '-')}" for name, value in others.items() if value]
        if given:
            raise BadInput(f"{', '.join(given)}: only with --corpus")


def run_corpus(model: str, corpus: str, analyses: list[Any], as_json: bool, **options: Any) -> None:
    """Run, report where a summary allows it, and print; exit code 4 if documents failed."""
    from interp.corpus import run_corpus as measure
    from interp.results import Results

    run = measure(model, corpus, analyses, **options)
    found, written = run.open(), [run.folder]
    if isinstance(found, Results):
        written.append(found.report(run.folder / "report.html", overwrite=True))
    _print(run, found, written, as_json)
    if len(run.failures):
        raise typer.Exit(SOME_FAILED)


def _print(run: CorpusRun, found: Any, written: list[Path], as_json: bool) -> None:
    facts = {
        "documents": run.documents,
        "chunks": run.chunks,
        "tokens": run.tokens,
        "failures": len(run.failures),
        "seconds": round(run.seconds, 3),
        "measured": run.measured,
    }
    tables = {name: _rows(table) for name, table in found.items()}
    if as_json:
        paths = [str(path) for path in written]
        print_json(json.dumps(facts | {"tables": tables, "written": paths}))
    else:
        print_table(["table", "rows"], [(name, f"{n:,}") for name, n in tables.items()])
        out.print(repr(run)[1:-1], highlight=False, markup=False, soft_wrap=True)
        wrote(written)
    if len(run.failures):
        first = run.failures.iloc[0]
        err.print(
            f"{len(run.failures):,} failures, listed in {run.folder / 'failures.parquet'}; the "
            f"first: document {first['document']} ({first['where']}): {first['reason']}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _rows(table: Any) -> int:
    return len(table.frame) if hasattr(table, "state") else len(table)
