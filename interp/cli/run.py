"""`interp demo`, `run` and `report`: from prompts to tables and a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import generation
from interp.cli import pairs as of_pairs
from interp.cli.app import (
    TEXT,
    Bos,
    Device,
    Dtype,
    Json,
    ModelOption,
    Overwrite,
    Quiet,
    RunFolder,
    Special,
    TextColumn,
    app,
    err,
    finish,
    out,
    print_json,
    print_table,
    prompts_typed,
    renames,
    split,
    tables_kept,
    wrote,
)
from interp.errors import BadInput

if TYPE_CHECKING:
    from interp.render.finding import Finding
    from interp.runs.corpus.output import CorpusTables
    from interp.runs.corpus.run import CorpusRun
    from interp.runs.results import Results
    from interp.runs.series.result import Series


ANALYSES = ("rotation", "path_length", "logit_lens", "attention", "random_pairs")
BY_DEFAULT = ",".join(ANALYSES)

PromptsOption = Annotated[
    str | None,
    typer.Option(
        "--prompts", "-p", help="A file (.txt .jsonl .csv .parquet), or a built-in set: her, demo."
    ),
]
Analyses = Annotated[
    str,
    typer.Option(
        "--analyses",
        "-a",
        help="Analyses (see interp list) by commas; also module:Class or path/file.py:Class.",
        # With spaces, at which a narrow terminal breaks it; without, it would be cut.
        show_default=", ".join(ANALYSES),
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="A word: its tokens, the tokens before them and random ones get the label role.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and report.")]
Revision = Annotated[
    str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")
]
MaxTokens = Annotated[int, typer.Option(help="Tokens per batch, padding included.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Cut prompts longer than the context.")]
Keep = Annotated[
    str | None,
    typer.Option(
        help="Rows to keep: tokens (one each), or summary (moments per group; default of a corpus)."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Parameter of an analysis as ANALYSIS.PARAMETER=VALUE, such as "
        "trajectory.special=true; may be repeated.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(help='Measure the prediction of this token, such as " her", not of the next one.'),
]
Against = Annotated[
    str | None,
    typer.Option(
        help='A second token, such as " his", that logit_difference compares --token with.'
    ),
]
Layers = Annotated[
    str | None,
    typer.Option(help="Keep the rows of these layers only, by commas; -1 is the last one."),
]
Positions = Annotated[
    str | None,
    typer.Option(
        help="Keep the rows of these positions only, by commas; last, or -1, is the last."
    ),
]
By = Annotated[str, typer.Option(help="Labels that define the groups of a summary, by commas.")]
Labels = Annotated[
    str,
    typer.Option(
        help="Columns of the data to use as labels, by commas (--prompts uses all); NEW=OLD "
        "renames one."
    ),
]
Control = Annotated[
    str | None, typer.Option(help="Also measure an untrained copy of the model: random-init.")
]
Spacy = Annotated[
    str | None,
    typer.Option(help="A spaCy pipeline whose parts of speech label the tokens (column pos)."),
]
Tags = Annotated[
    str | None,
    typer.Option(
        help="Tags of --spacy, by commas: pos, tag, lemma, dep, ent_type or morph.",
        show_default="pos",
    ),
]
Frequency = Annotated[
    str | None,
    typer.Option(
        metavar="LANGUAGE",
        help="Label each token with the Zipf frequency of its word in a language, such as en "
        "(column zipf; needs wordfreq).",
    ),
]
Trust = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code from the model's repository.")
]

PANEL = "Corpus (--corpus)"
TRUNCATED = "--truncate cuts what the model should continue; leave one of the two out"
SOME_FAILED = 4

Corpus = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="Texts of any size, in place of --prompts: a .jsonl .parquet .csv .txt file, a folder "
        "or glob of them, or hf:NAME; streamed in shards, resumable.",
        rich_help_panel=PANEL,
    ),
]
Long = Annotated[
    str | None,
    typer.Option(
        help="Documents longer than the context: split (the default), cut or refuse.",
        rich_help_panel=PANEL,
    ),
]
Overlap = Annotated[
    int,
    typer.Option(
        help="Tokens that a chunk repeats from the one before, as context (with --long split).",
        rich_help_panel=PANEL,
    ),
]
Workers = Annotated[
    int, typer.Option(help="Number of processes, or of actors with --ray.", rich_help_panel=PANEL)
]
Ray = Annotated[
    str | None,
    typer.Option(help="Run on Ray: local, or the address of a cluster.", rich_help_panel=PANEL),
]
Gpus = Annotated[float, typer.Option(help="GPUs per Ray actor.", rich_help_panel=PANEL)]
Threads = Annotated[int, typer.Option(help="Threads of each worker.", rich_help_panel=PANEL)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out.", rich_help_panel=PANEL)
]
ShardDocuments = Annotated[
    int | None,
    typer.Option(help="Documents per shard; by default 1 MB of text.", rich_help_panel=PANEL),
]
Split = Annotated[
    str | None,
    typer.Option("--split", help="Split of a data set on the hub.", rich_help_panel=PANEL),
]
STREAMED: dict[str, Any] = {
    "long": None, "overlap": 0, "workers": 1, "ray": None, "gpus": 0, "threads": 1, "resume": False,
    "shard_documents": None, "split": None,
}  # fmt: skip
"""Options of a corpus, as they are where nobody names them."""


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for tables and report; by default interp-demo, made anew each time.",
        ),
    ] = None,
    model: ModelOption = "demo-llama",
    control: Annotated[
        bool, typer.Option(help="Also measure an untrained copy of the model, for comparison.")
    ] = True,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run the main analyses on an embedded model and write a report."""
    from interp.cli.demo import show

    # Nobody's own results go into the default folder, so a second look needs no option.
    overwrite = overwrite or folder is None
    folder = folder or Path("interp-demo")
    copy = "random-init" if control else None
    results, written = show(model, folder, control=copy, overwrite=overwrite, progress=not quiet)
    finish(results, written, as_json)


@app.command()
def run(
    prompts: PromptsOption = None,
    model: ModelOption = "demo",
    analyses: Analyses = BY_DEFAULT,
    settings: Settings = None,
    target: Target = None,
    token: Token = None,
    against: Against = None,
    layers: Layers = None,
    positions: Positions = None,
    folder: Out = Path("interp-run"),
    dtype: Dtype = "float32",
    device: Device = None,
    revision: Revision = None,
    max_tokens: MaxTokens = 4096,
    truncate: Truncate = False,
    bos: Bos = None,
    keep: Keep = None,
    by: By = "",
    control: Control = None,
    spacy: Spacy = None,
    tags: Tags = None,
    frequency: Frequency = None,
    trust_remote_code: Trust = False,
    corpus: Corpus = None,
    long: Long = None,
    overlap: Overlap = 0,
    workers: Workers = 1,
    ray: Ray = None,
    gpus: Gpus = 0,
    threads: Threads = 1,
    resume: Resume = False,
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
    pairs: of_pairs.PairsFile = None,
    align: of_pairs.Align = None,
    read: of_pairs.Read = "",
    answer: of_pairs.Answer = None,
    wrong: of_pairs.Wrong = None,
    patch: of_pairs.Patch = True,
    labels: Labels = "",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Run analyses over prompts, or over a corpus of any size; write tables and a report.

    Analyses of the weights (scope in interp list) need no prompts.
    """
    from interp.contract.registry import with_parameters

    if against is not None and token is None:
        raise BadInput(
            f"--against {against!r}: --token has to name the first answer, which it is compared "
            "with; without it that would be another token at every position, the next one"
        )
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "revision": revision}
    common: dict[str, Any] = {
        "target": target,
        "targets": token,
        "against": against,
        "layers": _numbers("layers", layers),
        "positions": _numbers("positions", positions),
        "prepend_bos": bos,
        "by": split(by),
        "max_tokens": max_tokens,
        "control": control,
        "labels": renames(labels),
        "progress": not quiet,
    }
    streaming: dict[str, Any] = {"long": long, "overlap": overlap, "workers": workers, "ray": ray}
    streaming |= {"gpus": gpus, "threads": threads, "resume": resume, "split": split_name}
    streaming |= {"shard_documents": shard_documents}
    shards = of_pairs.in_shards(pairs, keep, streaming | {"by": split(by)})
    check_choice(prompts, corpus, **{n: x for n, x in streaming.items() if n not in shards})
    if tags is not None and spacy is None:
        raise BadInput(f"--tags {tags}: only with --spacy, the pipeline that gives them")
    drawing: dict[str, Any] = {"do_sample": sample, "samples": samples, "seed": seed}
    drawing |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    others = {"--prompts": prompts, "--corpus": corpus, "--generate": new_tokens}
    others |= {} if shards else {"--keep": keep, "--by": by}
    others |= {"--target": target, "--token": token, "--truncate": truncate}
    others |= {"--spacy": spacy, "--frequency": frequency, "--labels": labels}
    others |= {"--text-column": text_column != TEXT}
    twins = of_pairs.asked(
        pairs, others, align=align, read=read, answer=answer, wrong=wrong, patch=patch
    )
    written = generation.asked(new_tokens, **drawing | ({"seed": 0} if pairs else {}))
    chosen = with_parameters(split(analyses), settings or [])
    if pairs is not None and twins is not None:
        twins |= {"seed": seed, "control": control, "prepend_bos": bos, "progress": not quiet}
        twins |= {"max_tokens": max_tokens}
        twins |= {"model_options": loading | {"trust_remote_code": trust_remote_code}}
        of_pairs.run_pairs(model, pairs, chosen, folder, overwrite, as_json, twins | shards)
        return
    if corpus is None:
        common |= {"truncate": truncate, "keep": keep or "tokens"}
        loading |= {"trust_remote_code": trust_remote_code}
        tagging = {"pipeline": spacy, "attributes": split(tags or "pos")} if spacy else None
        common |= {"labellers": _labellers(tagging, frequency)}
        read = prompts_typed(prompts, text_column)
        _run(model, read, chosen, folder, overwrite, as_json, loading, common, written)
        return
    if truncate and written:
        raise BadInput(TRUNCATED)
    common |= generation.of_corpus(written)
    if spacy or frequency:
        raise BadInput("--spacy and --frequency are for --prompts; a corpus has its own labels")
    run_corpus(
        model,
        corpus,
        chosen,
        as_json,
        out=folder,
        keep=keep or "summary",
        overwrite=overwrite,
        model_options=loading | {"trust_remote_code": trust_remote_code},
        text_column=text_column,
        **common,
        **streaming | ({"long": "cut"} if truncate else {}),
    )


def _numbers(what: str, typed: str | None) -> Any:
    """Numbers by commas, `last`, or None for all."""
    from interp.cli.made import whole_typed

    return typed if typed in (None, "last") else whole_typed(str(typed), what)


def _labellers(tagging: dict[str, Any] | None, frequency: str | None) -> list[Any]:
    """The labellers of the options."""
    from interp.prompts.frequency import word_frequency
    from interp.prompts.labels import spacy_tags

    tags = [] if tagging is None else [spacy_tags(**tagging)]
    return [*tags, *([] if frequency is None else [word_frequency(frequency)])]


def _run(
    model: str,
    prompts: Any,
    analyses: list[Any],
    folder: Path,
    overwrite: bool,
    as_json: bool,
    loading: dict[str, Any],
    options: dict[str, Any],
    writing: dict[str, Any] | None,
) -> None:
    """A run over prompts that fit in memory, or over what a model makes of them."""
    from interp._files import refuse_existing
    from interp._progress import stage

    refuse_existing(folder, overwrite=overwrite)
    with stage("starting", enabled=options["progress"] and err.is_terminal):
        from interp.runs.run import run as run_analyses
    options |= {"model_options": loading}
    if writing is None:
        results = run_analyses(model, prompts, analyses, **options)
    else:
        results = _generated(model, prompts, analyses, options | writing)
    with stage("writing tables", enabled=options["progress"]):
        written = [results.save(folder, overwrite=overwrite)]
    with tables_kept(folder):
        with stage("writing the report", enabled=options["progress"]):
            written.append(results.report(folder / "report.html"))
        finish(results, written, as_json)


def _generated(model: str, prompts: Any, analyses: list[Any], options: dict[str, Any]) -> Results:
    from interp.runs.generate import generate

    if prompts is None:
        raise BadInput("--generate continues prompts: name some by --prompts")
    if options.pop("truncate"):
        raise BadInput(TRUNCATED)
    return generate(model, prompts, analyses, **options)


@app.command()
def report(
    folder: RunFolder,
    path: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="The HTML file, or a folder for report.html; by default FOLDER."
        ),
    ] = None,
    special: Special = False,
    phantoms: Annotated[
        bool,
        typer.Option("--phantoms", help="Add what the analyses measure on known geometry."),
    ] = False,
    overwrite: Overwrite = False,
    _quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Write the report of saved results again."""
    from interp.runs.load import load

    # Without a place of its own it is the report that is already there, written again.
    overwrite = overwrite or path is None
    path = path or folder
    if path.suffix.lower() not in (".html", ".htm"):
        path = path / "report.html"
    results = load(folder)
    findings = _verdicts(results) if phantoms else []
    written = results.report(path, special=special, overwrite=overwrite, findings=findings)
    if as_json:
        print_json(json.dumps({"written": [str(written)]}))
    else:
        wrote([written])


def _verdicts(results: Results | CorpusTables | Series) -> list[Finding]:
    """What the analyses of a run measure on phantoms, for its report."""
    from interp.runs.phantoms.calibrate import calibrate
    from interp.runs.results import Results

    return [calibrate(results if isinstance(results, Results) else list(results))]


def check_choice(prompts: str | None, corpus: str | None, **others: Any) -> None:
    """Refuse prompts together with a corpus, and options of a corpus without one.

    Args:
        others: options of a corpus, which are compared with `STREAMED`; a further one, such as
            `generate`, is false where nobody asked for it.

    Raises `BadInput`.
    """
    if prompts is not None and corpus is not None:
        raise BadInput("pass --prompts (a few texts) or --corpus (any size), not both")
    if corpus is None:
        asked = [name for name, value in others.items() if value != STREAMED.get(name, False)]
        given = [f"--{name.replace('_', '-')}" for name in asked]
        if given:
            raise BadInput(f"{', '.join(given)}: only with --corpus")


def run_corpus(model: str, corpus: str, analyses: list[Any], as_json: bool, **options: Any) -> None:
    """Run a corpus, write a report of a summary, and print; exit code 4 if documents failed."""
    from interp.runs.corpus.run import run_corpus as measure
    from interp.runs.results import Results

    run = measure(model, corpus, analyses, **options)
    found, written = run.open(), [run.folder]
    if isinstance(found, Results):
        written.append(found.report(run.folder / "report.html", overwrite=True))
    _print(run, found, written, as_json)
    if len(run.failures):
        raise typer.Exit(SOME_FAILED)


def _print(run: CorpusRun, found: Any, written: list[Path], as_json: bool) -> None:
    from interp._progress import counted

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
            f"{counted(len(run.failures), 'failure')}, listed in "
            f"{run.folder / 'failures.parquet'}; the first: document {first['document']} "
            f"({first['where']}): {first['reason']}",
            style="yellow",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _rows(table: Any) -> int:
    return len(table.frame) if hasattr(table, "state") else len(table)
