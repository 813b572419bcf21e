"""The command line: `interp demo | run | inspect | list | report | compare | check`.

Thin: it parses, calls the library and prints. Exit codes: 0 done, 1 the request was refused or
failed (the message says why), 2 wrong usage, 3 a check or comparison found what it looks for.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from interp.errors import InterpError

if TYPE_CHECKING:
    from interp.results import Results

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Measure the residual stream of TransformerLens models.",
)
out = Console()
err = Console(stderr=True)

ModelOption = Annotated[
    str, typer.Option("--model", "-m", help="demo, demo-llama, a hub name or a folder.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script instead of text.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace earlier results.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder for tables and report.")] = Path(
        "interp-demo"
    ),
    model: ModelOption = "demo-llama",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run the main job on an embedded model and write a report."""
    from interp.demo.show import show

    results, written = show(model, folder, overwrite=overwrite, progress=not quiet)
    _finish(results, written, as_json)


@app.command()
def run(
    prompts: Annotated[
        str,
        typer.Option(
            "--prompts",
            "-p",
            help="A file (.txt .jsonl .csv .parquet), or a built-in set: her, demo.",
        ),
    ],
    model: ModelOption = "demo",
    analyses: Annotated[
        str, typer.Option("--analyses", "-a", help="Names, separated by commas.")
    ] = "rotation,path_length,logit_lens,attention,random_pairs",
    target: Annotated[
        str | None,
        typer.Option(
            "--target", help="A word: its tokens, those before it and random ones are compared."
        ),
    ] = None,
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for tables and report.")
    ] = Path("interp-run"),
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16.")] = "float32",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit on the hub.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Tokens per batch, padding included.")] = 4096,
    truncate: Annotated[
        bool, typer.Option("--truncate", help="Cut prompts longer than the context.")
    ] = False,
    keep: Annotated[
        str, typer.Option(help="tokens: a row each; summary: moments per group.")
    ] = "tokens",
    by: Annotated[str, typer.Option(help="Labels that make the groups of a summary.")] = "",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the hub repository brings.")
    ] = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run analyses over prompts; write tables and a report."""
    from interp.models import load_model
    from interp.registry import resolve
    from interp.results import refuse_existing
    from interp.runner import run as run_analyses

    refuse_existing(folder, overwrite=overwrite)
    chosen = resolve(_split(analyses))
    bridge = load_model(
        model, dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code
    )
    results = run_analyses(
        bridge,
        prompts,
        list(chosen),
        target=target,
        truncate=truncate,
        keep=keep,  # type: ignore[arg-type]  # the runner checks the word
        by=_split(by),
        max_tokens=max_tokens,
        progress=not quiet,
    )
    written = [results.save(folder, overwrite=overwrite)]
    written.append(results.report(folder / "report.html"))
    _finish(results, written, as_json)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="demo, demo-llama, a hub name or a folder.")],
    as_json: Json = False,
) -> None:
    """Show what can be attached to a model, and what was verified."""
    from interp.models import load_model
    from interp.probe import inspect as measure

    anatomy = measure(load_model(model))
    if as_json:
        out.print_json(anatomy.to_json())
        return
    _table(["fact", "measured"], anatomy.facts())
    for note in anatomy.caveats():
        out.print(f"• {note}", highlight=False, markup=False)


@app.command(name="list")
def list_registered(as_json: Json = False) -> None:
    """List the analyses that are installed."""
    from interp.registry import describe

    rows = describe()
    if as_json:
        out.print_json(json.dumps(rows))
        return
    columns = ["name", "scope", "sites", "about", "package"]
    _table(columns, [tuple(row[c] for c in columns) for row in rows])


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that a run wrote.")],
    path: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the report of saved results again."""
    from interp.results import load

    written = load(folder).report(path or folder / "report.html", overwrite=overwrite)
    _wrote([written])


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
        _wrote([csv] if csv else [])


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="A registered analysis.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Check all that are installed.")] = False,
) -> None:
    """Test an analysis against the laws of the contract, without a model."""
    from interp.checks import check_analysis
    from interp.registry import names, resolve

    if (name is None) == (not every):
        raise typer.BadParameter("name one analysis, or say --all")
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


def _split(names: str) -> list[str]:
    return [n.strip() for n in names.split(",") if n.strip()]


def _finish(results: Results, written: list[Path], as_json: bool) -> None:
    if as_json:
        out.print_json(
            json.dumps({"written": [str(p) for p in written], "tables": _sizes(results)})
        )
        return
    rows = []
    for name, result in results.items():
        values = [c for c in result.values if c not in ("position", "token_id")][:4]
        frame = result.frame
        if "special" in frame:
            frame = frame[~frame["special"].astype(bool)]
        means = ", ".join(f"{c} {frame[c].mean():.3g}" for c in values if frame[c].notna().any())
        rows.append((name, f"{len(result.frame):,}", means))
    _table(["table", "rows", "means over ordinary tokens"], rows)
    _wrote(written)


def _sizes(results: Results) -> dict[str, int]:
    return {name: len(result.frame) for name, result in results.items()}


def _wrote(paths: list[Path]) -> None:
    for path in paths:
        out.print(f"wrote {path}", highlight=False, markup=False, soft_wrap=True)


def _table(columns: list[str], rows: Any) -> None:
    table = Table(*columns, show_lines=False, header_style="bold")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    out.print(table)


def main() -> None:
    """Entry point: errors of this library become one line and exit code 1."""
    try:
        app()
    except InterpError as error:
        err.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(1)
