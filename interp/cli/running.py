"""`interp demo`, `run` and `report`: prompts in, tables and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from interp.cli.shared import Json, ModelOption, Overwrite, Quiet, app, finish, split, wrote


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
    finish(results, written, as_json)


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
    control: Annotated[
        str | None,
        typer.Option(help="random-init: run an untrained copy of the model beside it."),
    ] = None,
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
    chosen = resolve(split(analyses))
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
        by=split(by),
        control=control,
        max_tokens=max_tokens,
        progress=not quiet,
    )
    written = [results.save(folder, overwrite=overwrite)]
    written.append(results.report(folder / "report.html"))
    finish(results, written, as_json)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder that a run wrote.")],
    path: Annotated[Path | None, typer.Option("--out", "-o", help="The HTML file.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the report of saved results again."""
    from interp.results import load

    written = load(folder).report(path or folder / "report.html", overwrite=overwrite)
    wrote([written])
