"""Words and vectors: `interp nearest`, and `interp words near | analogy | axis | …`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.app import (
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
)
from interp.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from interp.experiments.words import WordVectors


PANEL = "On a model"
words = typer.Typer(no_args_is_help=True, help="The embedding space: words and their vectors.")
app.add_typer(words, name="words", rich_help_panel=PANEL)

Matrix = Annotated[str, typer.Option("--matrix", help="W_E or W_U.")]
Vectors = Annotated[
    Path | None, typer.Option("--vectors", help="A word2vec or GloVe file instead of a model.")
]
Centred = Annotated[bool, typer.Option("--centred", help="Take the mean vector off first.")]
Words = Annotated[list[str], typer.Argument(help="Words.")]
SomeWords = Annotated[list[str] | None, typer.Argument(help="These words only.")]
RANDOM = "Grey: what the neighbour of that rank would have if all directions were random (median)."


def space_of(model: str, matrix: str, vectors: Path | None, centred: bool) -> WordVectors:
    """The words of a file, or of a matrix of a model."""
    from interp.experiments.words import WordVectors

    if vectors is not None:
        from interp.experiments.word_files import read_word_vectors

        found = read_word_vectors(vectors).explore()
    else:
        from interp.models.load import load_model

        found = WordVectors.of(load_model(model), matrix)
    return found.centred() if centred else found


def _source(model: str, matrix: str, vectors: Path | None, centred: bool) -> dict[str, Any]:
    of = {"vectors": str(vectors)} if vectors else {"model": model, "matrix": matrix}
    return of | {"centred": centred}


def _text(table: pd.DataFrame, head: str = "") -> str:
    shown = table.head(40).to_string(index=False, float_format="{:.4g}".format)
    return f"{head}\n{shown}" if head else shown


@app.command(rich_help_panel=PANEL)
def nearest(
    token: Annotated[str, typer.Argument(help='A token, such as " her": a leading space counts.')],
    minus: Annotated[str | None, typer.Option(help="A token to take off.")] = None,
    model: ModelOption = "demo",
    of: Annotated[str, typer.Option("--of", help="W_E or W_U: where the vector is from.")] = "W_U",
    into: Annotated[str, typer.Option("--in", help="W_E or W_U: where it is looked up.")] = "W_U",
    by: Annotated[str, typer.Option(help="dot or cosine.")] = "cosine",
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Tokens nearest to the vector of a token, or to the difference of two."""
    from interp.experiments.nearest import nearest_tokens
    from interp.models.load import load_model
    from interp.models.weights import embedding_matrix
    from interp.prompts.tokens import token_id
    from interp.render.bars import bars_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    bridge = load_model(model)
    rows = embedding_matrix(bridge, of)
    vector = rows[token_id(bridge, token)]
    if minus is not None:
        vector = vector - rows[token_id(bridge, minus)]
        if not vector.any():
            raise BadInput(f"{token!r} − {minus!r} is the zero vector: nothing is near it")
    table = nearest_tokens(bridge, vector, space=into, k=k, by=by)  # type: ignore[arg-type]
    named = repr(token) + (f" − {minus!r}" if minus is not None else "")
    draw = partial(
        bars_figure,
        table,
        "token",
        "cosine",
        control="random_cosine",
        title=f"Tokens nearest to {named}",
        unit="cosine",
        caption=f"{of} of {named} looked up in {into} by {by}. {RANDOM}",
    )
    sheet = Sheet(
        "nearest",
        _text(table, f"{of} of {named} in {into}, by {by}"),
        {"nearest": table},
        {"Nearest tokens": draw},
        lead=f"Which tokens of {into} lie nearest to {named}?",
        about=about("nearest", model=model, token=token, minus=minus, of=of, into=into, by=by),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@words.command()
def near(
    word: Annotated[str, typer.Argument(help="A word.")],
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    by: Annotated[str, typer.Option(help="cosine or dot.")] = "cosine",
    model: ModelOption = "demo",
    matrix: Matrix = "W_E",
    vectors: Vectors = None,
    centred: Centred = False,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """The nearest words to a word, beside random directions."""
    from interp.render.bars import bars_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    table = space_of(model, matrix, vectors, centred).nearest(word, k, by=by)  # type: ignore[arg-type]
    draw = partial(
        bars_figure,
        table,
        "word",
        "cosine",
        control="random_cosine",
        title=f"Words nearest to {word!r}",
        unit="cosine",
        caption=RANDOM,
    )
    asked = _source(model, matrix, vectors, centred) | {"word": word, "k": k, "by": by}
    sheet = Sheet(
        "near",
        _text(table),
        {"near": table},
        {"Neighbours": draw},
        lead=f"Which words lie nearest to {word!r}?",
        about=about("words near", **asked),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@words.command()
def analogy(
    a: Annotated[str, typer.Argument(help="a of a − b + c.")],
    b: Annotated[str, typer.Argument(help="b")],
    c: Annotated[str, typer.Argument(help="c")],
    k: Annotated[int, typer.Option("-k", help="How many.")] = 10,
    model: ModelOption = "demo",
    matrix: Matrix = "W_E",
    vectors: Vectors = None,
    centred: Centred = False,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Words nearest to a − b + c; the words of the question are marked, not left out."""
    from interp.render.bars import bars_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    table = space_of(model, matrix, vectors, centred).analogy(a, b, c, k)
    kinds = table["query"].map({True: "in the question", False: "answer"})
    draw = partial(
        bars_figure,
        table.assign(kind=kinds),
        "word",
        "cosine",
        control="random_cosine",
        group="kind",
        title=f"{a} − {b} + {c}",
        unit="cosine",
        caption=RANDOM,
    )
    asked = _source(model, matrix, vectors, centred) | {"a": a, "b": b, "c": c, "k": k}
    sheet = Sheet(
        "analogy",
        _text(table),
        {"analogy": table},
        {"Answers": draw},
        lead=f"What is to {c!r} as {a!r} is to {b!r}?",
        about=about("words analogy", **asked),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@words.command()
def axis(
    positive: Annotated[str, typer.Option("--to", help="Words of one end, by commas.")],
    negative: Annotated[str, typer.Option("--from", help="Words of the other end, by commas.")],
    others: SomeWords = None,
    model: ModelOption = "demo",
    matrix: Matrix = "W_E",
    vectors: Vectors = None,
    centred: Centred = False,
    resamples: Resamples = 999,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Words on the axis between two word sets, and whether the axis separates left-out words."""
    import pandas as pd

    from interp.measures.axes import axis_separation
    from interp.render.bars import bars_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    space = space_of(model, matrix, vectors, centred)
    ends = split(positive), split(negative)
    table = space.axis(*ends, others or [])
    sides = [space.select(end).vectors for end in ends]
    auc, null, p = axis_separation(*sides, permutations=resamples, seed=seed)
    separation = pd.DataFrame([{"auc": auc, "shuffled_auc": null, "p": p}])
    said = (
        f"left-out words: AUC {auc:.3f}; with words dealt to the sides at random {null:.3f} "
        f"(p = {p:.2g})"
    )
    draw = partial(
        bars_figure,
        table.sort_values("projection"),
        "word",
        "projection",
        group="side",
        title=f"From {ends[1][0]} … to {ends[0][0]} …",
        unit="cosine with the axis",
        caption=f"Words of the two sets stand on an axis made without them; {said}.",
    )
    asked = _source(model, matrix, vectors, centred) | {"to": ends[0], "from": ends[1]}
    sheet = Sheet(
        "axis",
        _text(table, said),
        {"axis": table, "separation": separation},
        {"Words on the axis": draw},
        lead="Does the difference of two word sets order words that it was not made of?",
        about=about("words axis", **asked),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@words.command()
def cosines(
    chosen: Words,
    model: ModelOption = "demo",
    matrix: Matrix = "W_E",
    vectors: Vectors = None,
    centred: Centred = False,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Cosine of every word with every other, and along their sequence, beside random pairs."""
    from interp.render.bars import matrices_figure
    from interp.render.finding import Sheet

    refuse_taken(out_folder, overwrite)
    if len(chosen) < 2:
        raise BadInput("one word has no cosine with another; name two or more")
    space = space_of(model, matrix, vectors, centred)
    table = space.cosines(chosen)
    along = space.along(chosen)
    mean, spread = space.anisotropy
    said = f"all pairs of the vocabulary: mean {mean:.3f}, standard deviation {spread:.3f}"
    own = table.to_numpy().diagonal()
    undefined = [word for word, cosine in zip(chosen, own, strict=True) if cosine != cosine]
    if undefined:  # NaN
        said += f"; without a direction (zero vector): {', '.join(map(repr, undefined))}"
    draw = partial(
        matrices_figure,
        {"cosine": table},
        x=chosen,
        y=chosen,
        titles=("", ""),
        title="Cosines",
        unit="cosine",
        caption=f"Control: {said}.",
    )
    sheet = Sheet(
        "cosines",
        f"{table.to_string(float_format='{:.3f}'.format)}\n{said}",
        {"cosines": table.rename_axis("word").reset_index(), "along": along},
        {"Cosines": draw},
        lead="How alike are these words?",
        about=about("words cosines", **_source(model, matrix, vectors, centred), words=chosen),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@words.command()
def graph(
    chosen: Words,
    threshold: Annotated[float, typer.Option(help="Least cosine of an edge.")] = 0.5,
    model: ModelOption = "demo",
    matrix: Matrix = "W_E",
    vectors: Vectors = None,
    centred: Centred = False,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Words joined where their cosine is above a threshold, beside how many edges chance gives."""
    from interp.render.finding import Sheet
    from interp.render.words import graph_figure

    refuse_taken(out_folder, overwrite)
    found = space_of(model, matrix, vectors, centred).graph(chosen, threshold)
    said = (
        f"{len(found.edges)} of {found.pairs} pairs are joined; random pairs of this vocabulary "
        f"would give {found.vocabulary_edges:.1f}, random directions {found.random_edges:.1f}"
    )
    asked = _source(model, matrix, vectors, centred) | {"words": chosen, "threshold": threshold}
    sheet = Sheet(
        "graph",
        _text(found.edges, said),
        {"edges": found.edges, "nodes": found.nodes},
        {"Graph": partial(graph_figure, found)},
        lead=f"Which words have a cosine above {threshold:g}?",
        notes=(said,),
        about=about("words graph", **asked),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@words.command(name="map")
def picture(
    chosen: SomeWords = None,
    method: Annotated[str, typer.Option(help="pca or tsne.")] = "pca",
    perplexity: Annotated[float, typer.Option(help="Of t-SNE.")] = 30.0,
    model: ModelOption = "demo",
    matrix: Matrix = "W_E",
    vectors: Vectors = None,
    centred: Centred = False,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """A picture of the words in two dimensions, and how far to trust it."""
    from interp.errors import unknown
    from interp.render.finding import Sheet
    from interp.render.words import projection_figure

    refuse_taken(out_folder, overwrite)
    if method not in ("pca", "tsne"):
        raise unknown("picture", method, ("pca", "tsne"))
    space = space_of(model, matrix, vectors, centred)
    if method == "pca":
        seen = space.pca(words=chosen or None)
    else:
        seen = space.tsne(words=chosen or None, perplexity=perplexity, seed=seed)
    trust = f"{seen.method} of {len(seen.words)} words; " + (
        f"trustworthiness {seen.trustworthiness:.3f}, with its points shuffled {seen.shuffled:.3f}"
        if seen.trustworthiness == seen.trustworthiness  # not NaN
        else "how far to trust it is not known: trustworthiness needs 25 words"
    )
    asked = _source(model, matrix, vectors, centred) | {"words": chosen, "method": method}
    sheet = Sheet(
        "map",
        _text(seen.frame, trust),
        {"map": seen.frame},
        {"Map": partial(projection_figure, seen)},
        lead="Which words lie together?",
        notes=(trust,),
        about=about("words map", **asked, perplexity=perplexity, seed=seed),
    )
    deliver(sheet, out_folder, overwrite, as_json)


@words.command()
def clusters(
    chosen: SomeWords = None,
    method: Annotated[str, typer.Option(help="hdbscan or dbscan.")] = "hdbscan",
    min_size: Annotated[int, typer.Option(help="Smallest cluster, or core neighbours.")] = 10,
    eps: Annotated[float | None, typer.Option(help="Radius of dbscan.")] = None,
    components: Annotated[int, typer.Option(help="Principal components kept.")] = 10,
    resamples: Annotated[int, typer.Option(help="How often it is clustered again.")] = 10,
    model: ModelOption = "demo",
    matrix: Matrix = "W_E",
    vectors: Vectors = None,
    centred: Centred = False,
    seed: Seed = 0,
    out_folder: OutFolder = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Clusters of words, whether they would come again, and those of random vectors."""
    import numpy as np
    import pandas as pd

    from interp.render.finding import Sheet
    from interp.render.words import projection_figure

    refuse_taken(out_folder, overwrite)
    space = space_of(model, matrix, vectors, centred)
    options: dict[str, Any] = {"method": method, "min_size": min_size, "eps": eps}
    options |= {"components": components, "resamples": resamples, "seed": seed}
    found = space.clusters(words=chosen or None, **options)
    runs = pd.DataFrame({"stability": found.stability, "random": found.random_stability})
    stable, random = (
        f", stability {np.nanmean(x):.2f}" if np.isfinite(x).any() else "" for x in runs.T.values
    )
    said = (
        f"{found.n} clusters of {len(found.words)} words, {found.noise:.0%} noise{stable}"
        f"{' (adjusted Rand index)' * bool(stable)}; Gaussian vectors of this size: "
        f"{found.random_clusters} clusters{random}"
    )
    names = ["noise" if c < 0 else f"cluster {c}" for c in found.labels]
    seen = (space if not chosen else space.select(chosen)).pca()
    sheet = Sheet(
        "clusters",
        _text(found.frame, said),
        {"clusters": found.frame, "stability": runs},
        {"Clusters on the first two principal components": partial(projection_figure, seen, names)},
        lead="Do the words fall into groups?",
        notes=(said,),
        about=about("words clusters", **_source(model, matrix, vectors, centred), **options),
    )
    deliver(sheet, out_folder, overwrite, as_json)
