"""`interp demo`, `run` and `report`: prompts in, tables and a report out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from interp.cli import corpus as corpora
from interp.cli.shared import Json, ModelOption, Overwrite, Quiet, app, finish, split, wrote
from interp.errors import BadInput


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
        str | None,
        typer.Option(
            "--prompts",
            "-p",
            help="A file (.txt .jsonl .csv .parquet), or a built-in set: her, demo.",
        ),
    ] = None,
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
        str | None,
        typer.Option(help="tokens: a row each; summary (of a corpus): moments per group."),
    ] = None,
    by: Annotated[str, typer.Option(help="Labels that make the groups of a summary.")] = "",
    control: Annotated[
        str | None,
        typer.Option(help="random-init: run an untrained copy of the model beside it."),
    ] = None,
    spacy: Annotated[
        str | None,
        typer.Option(help="A spaCy pipeline: its parts of speech label the tokens, column pos."),
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the hub repository brings.")
    ] = False,
    corpus: corpora.Corpus = None,
    long: corpora.Long = "split",
    overlap: corpora.Overlap = 0,
    workers: corpora.Workers = 1,
    ray: corpora.Ray = None,
    gpus: corpora.Gpus = 0,
    threads: corpora.Threads = 1,
    resume: corpora.Resume = False,
    shard_documents: corpora.ShardDocuments = None,
    text_column: corpora.TextColumn = "text",
    split_name: corpora.Split = None,
    labels: corpora.Labels = "",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run analyses over prompts, or over a corpus of any size; write tables and a report.

    Analyses of the weights (scope in `interp list`) need no prompts.
    """
    from interp.labels import spacy_tags
    from interp.models import load_model
    from interp.registry import resolve
    from interp.results import refuse_existing
    from interp.runner import run as run_analyses

    options: dict[str, Any] = {
        "dtype": dtype,
        "device": device,
        "revision": revision,
        "trust_remote_code": trust_remote_code,
    }
    if corpus is not None and (control or spacy):
        raise BadInput("--control and --spacy are for --prompts; a corpus brings its own labels")
    corpora.check_choice(
        prompts, corpus, resume=resume, ray=ray, workers=workers > 1, overlap=overlap, labels=labels
    )
    if corpus is not None:
        corpora.run_corpus(
            model,
            corpus,
            split(analyses),
            as_json,
            out=folder,
            keep=keep or "summary",
            by=split(by),
            labels=split(labels),
            target=target,
            text_column=text_column,
            split=split_name,
            long="cut" if truncate else long,
            overlap=overlap,
            max_tokens=max_tokens,
            shard_documents=shard_documents,
            workers=workers,
            ray=ray,
            gpus=gpus,
            threads=threads,
            resume=resume,
            overwrite=overwrite,
            model_options=options,
            progress=not quiet,
        )
        return
    refuse_existing(folder, overwrite=overwrite)
    chosen = resolve(split(analyses))
    tags = [spacy_tags(spacy)] if spacy else []
    bridge = load_model(model, **options)
    results = run_analyses(
        bridge,
        prompts,
        list(chosen),
        target=target,
        labellers=tags,
        truncate=truncate,
        keep=keep or "tokens",  # type: ignore[arg-type]  # the runner checks the word
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
