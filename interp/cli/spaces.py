"""Two spaces, two models, two contexts: `interp spaces | layers | drift | continuations`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.app import (
    Bos,
    Control,
    Json,
    ModelOption,
    OutFolder,
    Overwrite,
    Resamples,
    Seed,
    about,
    app,
    deliver,
    refuse_taken,
    split,
    untrained,
)
from interp.errors import BadInput, unknown

if TYPE_CHECKING:
    import pandas as pd


PANEL = "On a model"
Prompts = Annotated[str, typer.Option("--prompts", "-p", help="A file, or a built-in set.")]


def source_of(text: str) -> Any:
    """A word-vector file, or a matrix of a model: `gpt2:W_U`; `gpt2` alone means W_E."""
    from interp.experiments.word_files import read_word_vectors
    from interp.models.weights import MATRICES
    from interp.prompts.user_files import suffix_of

    model, colon, matrix = text.rpartition(":")
    if colon and matrix.startswith("W_"):
        if matrix not in MATRICES:
            raise unknown("matrix", matrix, MATRICES)
        return model, matrix
    path = Path(text)
    if path.is_file() or (suffix_of(path) in (".txt", ".vec", ".bin") and not path.is_dir()):
        return read_word_vectors(path)
    return text, "W_E"


@app.command(rich_help_panel=PANEL)
def spaces(
    a: Annotated[str, typer.Argument(help="MODEL, MODEL:W_E, MODEL:W_U or a word-vector file.")],
    b: Annotated[str, typer.Argument(help="The same.")],
    words: Annotated[str, typer.Option(help="Words, by commas; the common ones if none.")] = "",
    method: Annotated[
        str, typer.Option(help="Of procrustes, affine, cka, cka_biased, rsa, mutual_knn, svcca.")
    ] = "procrustes,affine,cka,rsa,mutual_knn",
    held_out: Annotated[float, typer.Option(help="Share of words that maps are scored on.")] = 0.2,
    k: Annotated[int, typer.Option("-k", help="Neighbours of mutual k-NN and CSLS.")] = 10,
    limit: Annotated[int, typer.Option(help="Words at most where all pairs are needed.")] = 1000,
    resamples: Resamples = 500,
    control: Control = None,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare two spaces of words: maps on held-out words and similarities, with their nulls."""
    from interp.experiments.spaces import COLUMNS, compare_spaces
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    options: dict[str, Any] = {"words": split(words) or None, "method": split(method)}
    options |= {"held_out": held_out, "k": k, "limit": limit, "resamples": resamples, "seed": seed}
    first, second = source_of(a), source_of(b)
    found = compare_spaces(first, second, **options)
    tables, figures, text = {"spaces": found.frame}, {"Scores": found.plot}, repr(found)
    if control is not None:
        if not isinstance(second, tuple):
            raise BadInput(f"--control is of a model, and {b!r} is a word-vector file")
        other = compare_spaces(first, (untrained(control, second[0]), second[1]), **options)
        tables["spaces_untrained"] = other.frame
        figures["Scores with an untrained copy of the second model"] = other.plot
        text += f"\nuntrained copy: {other!r}"
    sheet = Sheet(
        "spaces",
        text,
        tables,
        figures,
        COLUMNS,
        lead=f"How alike are {found.a} and {found.b}? Maps are scored on words they were not "
        "fitted on; the null permutes the words of one space.",
        notes=found.notes,
        about=about("spaces", a=a, b=b, control=control, **options),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@app.command(rich_help_panel=PANEL)
def layers(
    a: Annotated[str, typer.Argument(help="A model.")],
    b: Annotated[str, typer.Argument(help="A model; the same one for its own layers.")],
    prompts: Prompts,
    method: Annotated[str, typer.Option(help="cka, cka_biased, rsa, mutual_knn, svcca.")] = "cka",
    per_prompt: Annotated[int, typer.Option(help="Words drawn per prompt.")] = 4,
    pieces: Annotated[str, typer.Option(help="last or mean of a word's tokens.")] = "last",
    bos: Bos = None,
    resamples: Resamples = 200,
    control: Control = None,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Compare every layer of one model with every layer of another, on the same words."""
    from interp.experiments.layers import compare_layers
    from interp.models.load import load_model
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    options: dict[str, Any] = {"method": method, "per_prompt": per_prompt, "pieces": pieces}
    options |= {"prepend_bos": bos, "resamples": resamples, "seed": seed}
    first = load_model(a)
    second = first if a == b else load_model(b)
    copy = untrained(control, b)
    found = compare_layers(first, second, prompts, **options)
    tables, figures, text = {"layers": found.frame}, {"Similarity": found.plot}, repr(found)
    if copy is not None:
        other = compare_layers(first, copy, prompts, **options)
        tables["layers_untrained"] = other.frame
        figures["With an untrained copy of the second model"] = other.plot
        text += f"\nuntrained copy: {other!r}"
    sheet = Sheet(
        "layers",
        text,
        tables,
        figures,
        lead=f"Which layers of {found.a} and {found.b} order the same words alike?",
        notes=found.notes,
        about=about("layers", a=a, b=b, prompts=prompts, control=control, **options),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@app.command(rich_help_panel=PANEL)
def drift(
    word: Annotated[str, typer.Argument(help="A word with several senses.")],
    prompts: Prompts,
    sense: Annotated[str, typer.Option(help="Label column with the senses.")] = "sense",
    bos: Bos = None,
    model: ModelOption = "demo",
    resamples: Resamples = 1000,
    control: Control = None,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """One word in different contexts: cosines within and between its senses, per state."""
    from interp.experiments.drift import COLUMNS, contextual_drift
    from interp.experiments.token_vectors import prompts_for
    from interp.models.load import load_model
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    copy = untrained(control, model)
    options: dict[str, Any] = {"sense": sense, "resamples": resamples, "seed": seed}
    bridge = load_model(model)
    ready = prompts_for(bridge, prompts, prepend_bos=bos)  # the copy reads the same tokens
    found = contextual_drift(bridge, ready, word, **options)
    tables, figures, text = {"drift": found.frame}, {"Cosines": found.plot}, repr(found)
    if copy is not None:
        other = contextual_drift(copy, ready, word, **options)
        tables["drift_untrained"] = other.frame
        figures["An untrained copy"] = other.plot
        text += f"\nuntrained copy: {other!r}"
    sheet = Sheet(
        "drift",
        text,
        tables,
        figures,
        COLUMNS,
        lead=f"Where does the context tell the senses of {word!r} apart?",
        notes=found.notes,
        about=about(
            "drift", model=model, prompts=prompts, bos=bos, word=word, control=control, **options
        ),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@app.command(rich_help_panel=PANEL)
def continuations(
    a: Annotated[str, typer.Argument(help="A context.")],
    b: Annotated[str, typer.Argument(help="Another context.")],
    model: ModelOption = "demo",
    temperature: Annotated[float, typer.Option(help="Of the sampling, above 0.")] = 1.0,
    length: Annotated[int, typer.Option(help="Tokens of a continuation.")] = 8,
    samples: Annotated[int, typer.Option(help="Continuations per context.")] = 64,
    control: Control = None,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """How far two contexts drive apart what a model says next, at a temperature."""
    from interp.experiments.continuations import COLUMNS, continuation_divergence
    from interp.models.load import load_model
    from interp.render.bars import lines_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    copy = untrained(control, model)
    options: dict[str, Any] = {"temperature": temperature, "length": length}
    options |= {"samples": samples, "seed": seed}
    tables = {"continuations": continuation_divergence(load_model(model), a, b, **options)}
    if copy is not None:
        tables["continuations_untrained"] = continuation_divergence(copy, a, b, **options)
    lines = {
        "untrained copy" if "untrained" in name else "two contexts": _interval(table)
        for name, table in tables.items()
    }
    draw = partial(
        lines_figure,
        lines,
        title="Divergence of continuations",
        x="tokens of the continuation",
        unit="Jensen–Shannon, nats",
        caption=f"{samples} continuations per context at temperature {temperature:g}. Bands: 95 % "
        "(two standard errors); ln 2 = 0.693 is the most.",
        controls=["untrained copy"],
    )
    text = "\n".join(
        f"{n}\n{t.to_string(index=False, float_format='{:.4g}'.format)}" for n, t in tables.items()
    )
    sheet = Sheet(
        "continuations",
        text,
        tables,
        {"Divergence": draw},
        COLUMNS,
        lead="How differently does the model go on after the two contexts?",
        about=about("continuations", model=model, a=a, b=b, control=control, **options),
    )
    deliver(sheet, out_folder, overwrite, as_json)


def _interval(table: pd.DataFrame) -> pd.DataFrame:
    rows = table.rename(columns={"length": "x", "js": "mean"})[["x", "mean", "js_se"]]
    half = 1.96 * rows.pop("js_se")
    return rows.assign(low=rows["mean"] - half, high=rows["mean"] + half)
