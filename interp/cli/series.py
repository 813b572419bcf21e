"""`interp series`: the same prompts or corpus, and analyses, over several models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import generation
from interp.cli.app import (
    TEXT,
    Bos,
    Device,
    Dtype,
    Json,
    Overwrite,
    Quiet,
    TextColumn,
    app,
    err,
    out,
    print_json,
    print_table,
    prompts_typed,
    renames,
    split,
    wrote,
)
from interp.cli.made import numbers_typed
from interp.cli.run import (
    Analyses,
    Corpus,
    Keep,
    Labels,
    Long,
    MaxTokens,
    Overlap,
    PromptsOption,
    Settings,
    ShardDocuments,
    Split,
    Target,
    Threads,
    Workers,
    check_choice,
)

if TYPE_CHECKING:
    from interp.runs.series.result import Series

SOME_FAILED = 4
NAMED = re.compile(r"[\w.-]+")

Models = Annotated[
    list[str],
    typer.Argument(
        help="NAME@REVISION of the hub, FOLDER@STEP, folders, a folder of checkpoints, globs in "
        "quotes or .gguf files; NAME=MODEL gives a name.",
        metavar="MODEL…",
    ),
]
At = Annotated[
    str | None,
    typer.Option(
        "--at",
        help="Places of the members on the axis, by commas; by default the training steps that "
        "their names give.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for members and report.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume", help="Continue the series in --out: what is measured is not measured again."
    ),
]
By = Annotated[str, typer.Option(help="Labels that define the groups of a summary, by commas.")]


@app.command()
def series(
    models: Models,
    prompts: PromptsOption = None,
    analyses: Analyses = "rotation,path_length,logit_lens,attention",
    settings: Settings = None,
    at: At = None,
    target: Target = None,
    folder: Out = Path("interp-series"),
    dtype: Dtype = "float32",
    device: Device = None,
    max_tokens: MaxTokens = 4096,
    bos: Bos = None,
    keep: Keep = None,
    by: By = "",
    labels: Labels = "",
    corpus: Corpus = None,
    long: Long = None,
    overlap: Overlap = 0,
    workers: Workers = 1,
    threads: Threads = 1,
    shard_documents: ShardDocuments = None,
    text_column: TextColumn = TEXT,
    split_name: Split = None,
    new_tokens: generation.Generate = None,
    sample: generation.Sample = False,
    samples: generation.Samples = 1,
    temperature: generation.Temperature = 1.0,
    top_k: generation.TopK = None,
    top_p: generation.TopP = None,
    seed: generation.Seed = 0,
    resume: Resume = False,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run analyses over the same prompts in several models: checkpoints, seeds, sizes, fine-tunes.

    One model is in memory at a time. A member that fails is listed with its error, and the rest
    goes on (exit code 4).
    """
    from interp.contract.registry import with_parameters
    from interp.runs.series.run import series as measure

    drawing: dict[str, Any] = {"do_sample": sample, "samples": samples, "seed": seed}
    drawing |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    streaming: dict[str, Any] = {"long": long, "overlap": overlap, "workers": workers}
    streaming |= {"threads": threads, "shard_documents": shard_documents, "split": split_name}
    more = _streamed(prompts, corpus, streaming, generation.asked(new_tokens, **drawing))
    if corpus is None:
        prompts = prompts_typed(prompts, text_column)
    else:
        more |= {"text_column": text_column}
    found = measure(
        named(models),
        prompts,
        with_parameters(split(analyses), settings or []),
        at=None if at is None else numbers_typed(at, "at"),
        out=folder,
        resume=resume,
        overwrite=overwrite,
        model_options={"dtype": dtype, "device": device},
        progress=not quiet,
        target=target,
        labels=renames(labels) or (None if corpus is None else {}),
        keep=keep or ("tokens" if corpus is None else "summary"),
        by=split(by),
        prepend_bos=bos,
        max_tokens=max_tokens,
        **more,
    )
    written = [folder, found.report(folder / "report.html", overwrite=True)]
    _print(found, written, as_json)
    if len(found.failures) or found.lost:
        raise typer.Exit(SOME_FAILED)


def _streamed(
    prompts: str | None,
    corpus: str | None,
    streaming: dict[str, Any],
    written: dict[str, Any] | None,
) -> dict[str, Any]:
    """Options of a corpus for `interp.series`; raises `BadInput` for such options without one."""
    check_choice(prompts, corpus, **streaming, generate=written is not None)
    if corpus is None:
        return {}
    return {"corpus": corpus, **streaming, **generation.of_corpus(written)}


def named(models: list[str]) -> Any:
    """Models with the names that were given as NAME=MODEL; a list where none was.

    >>> named(["base=gpt2", "tuned=runs/a"])
    {'base': 'gpt2', 'tuned': 'runs/a'}
    >>> named(["gpt2", "runs/step=5"])
    ['gpt2', 'runs/step=5']
    """
    parts = [text.partition("=") for text in models]
    given = [
        bool(eq and NAMED.fullmatch(name) and not Path(text).exists())
        for text, (name, eq, _) in zip(models, parts, strict=True)
    ]
    if not any(given):
        return models
    return {
        name if has else text: model if has else text
        for text, has, (name, _, model) in zip(models, given, parts, strict=True)
    }


def _print(found: Series, written: list[Path], as_json: bool) -> None:
    table = found.members
    if as_json:
        rows = json.loads(table.to_json(orient="records"))
        document = {"members": rows, "axis": found.axis, "notes": list(found.notes)}
        print_json(json.dumps(document | {"written": [str(path) for path in written]}))
        return
    rows = [(str(r["member"]), f"{r['at']:g}", str(r["status"])) for _, r in table.iterrows()]
    # Without an axis the place is the order, counted from 0, and the rows stand in it.
    shown = slice(None) if found.ordered else slice(None, None, 2)
    print_table(["member", found.axis, "status"][shown], [row[shown] for row in rows])
    for note in found.notes:
        failed = "was not measured" in note or "failures.parquet" in note
        where = err if failed else out
        style = "yellow" if failed else None
        where.print(f"note: {note}", style=style, highlight=False, markup=False, soft_wrap=True)
    wrote(written)
