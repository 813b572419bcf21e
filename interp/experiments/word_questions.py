"""Questions to the words of a space; each answer has its control.

Knows `WordVectors` and its tables, and turns them into findings; the source of the vectors does not
matter here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.errors import BadInput, unknown
from interp.experiments.nearest import RANDOM_NAME, RANDOM_NOTE
from interp.experiments.words import WordVectors
from interp.measures.axes import axis_separation
from interp.render.drawing import Drawing, cell_rows
from interp.render.finding import Answer
from interp.render.text_map import whole_words
from interp.render.tokens import percent

_RANDOM = "median cosine of the neighbour of that rank if all directions were random: the control"
NEAR_COLUMNS = {
    "word": "the word, as the vocabulary writes it",
    "index": "number of its row in the space",
    "cosine": "its cosine with the vector that was asked for",
    "dot": "its dot product with that vector",
    "random_cosine": _RANDOM,
}
ANALOGY_COLUMNS = {
    "word": "the word, as the vocabulary writes it",
    "cosine": "its cosine with a − b + c, all scaled to length 1",
    "rank": "its rank among all words, 1 = nearest",
    "query": "whether it is a word of the question",
    "rank_without_query": "its rank without the words of the question; missing for these",
    "random_cosine": _RANDOM,
}
AXIS_COLUMNS = {
    "word": "the word",
    "side": "the set that it belongs to: positive, negative, or other",
    "projection": "its cosine with the axis, which is made without it",
    "percentile": "share of the vocabulary with a smaller projection; ratio",
    "auc": "area under the curve that separates left-out words of the two sets; ratio",
    "shuffled_auc": "its mean with the words dealt to the two sides at random: the control",
    "p": "share of these deals with at least this area, never 0",
}
COSINE_COLUMNS = {
    "word": "the word",
    "next": "the word after it in the sequence",
    "cosine": "cosine of the two",
    "random_pairs": "mean cosine over all pairs of the vocabulary: the control",
}
GRAPH_COLUMNS = {
    "word_a": "first word of the edge",
    "word_b": "second word",
    "cosine": "cosine of the two, above the threshold",
    "word": "a word of the graph",
    "component": "number of the connected part that it is in",
    "degree": "edges of the word; count",
}
MAP_COLUMNS = {
    "word": "the word",
    "x": "its place on the first axis",
    "y": "its place on the second axis",
    "axis_*": "its place on a further axis",
}
CLUSTER_COLUMNS = {
    "word": "the word",
    "cluster": "number of its cluster, −1 for noise",
    "stability": "adjusted Rand index of the clusters and those of a resample",
    "random": "the same for Gaussian vectors of this size: the control",
}


def _neighbours(table: pd.DataFrame, title: str, group: pd.Series[Any] | None = None) -> Drawing:
    names = {"word": "name", "cosine": "value", "random_cosine": "control"}
    rows = table.rename(columns=names)[list(names.values())]
    if group is not None:
        rows = rows.assign(group=group)
    options = {"control_name": RANDOM_NAME, "value_name": "cosine"}
    return Drawing("bars", title, rows, "cosine", control=RANDOM_NOTE, options=options)


def near(
    vectors: WordVectors, word: str, *, k: int = 10, by: Literal["cosine", "dot"] = "cosine"
) -> Answer:
    """The nearest words to a word, against random directions.

    Args:
        vectors: the words of a space.
        word: the word.
        k: number of neighbours.
        by: rank by cosine or dot (product).

    `.frame` has the columns of `WordVectors.nearest`.
    """
    table = vectors.nearest(word, k, by=by)
    title = f"Words nearest to {word!r}"
    asked = f"Which words lie nearest to {word!r}?"
    return Answer(
        "near",
        table,
        f"nearest to {word!r} is {_first(table)}",
        {"Neighbours": _neighbours(table, title)},
        columns=NEAR_COLUMNS,
        question=asked,
    )


def _first(table: pd.DataFrame) -> str:
    """The first word of a table of neighbours, with its cosine and the control."""
    row = table.iloc[0]
    by_chance = "" if row["cosine"] > row["random_cosine"] else ", no nearer than chance"
    return (
        f"{row['word']!r} with cosine {row['cosine']:.3f}{by_chance} (a neighbour of this rank has "
        f"{row['random_cosine']:.3f} if directions are random)"
    )


def analogy(vectors: WordVectors, a: str, b: str, c: str, *, k: int = 10) -> Answer:
    """Words nearest to a − b + c; the words of the question are marked, not left out.

    Args:
        vectors: the words of a space.
        a: first word of a − b + c, such as king.
        b: second word, such as man.
        c: third word, such as woman.
        k: number of answers. Three rows more are listed, because up to three of the best words
            may be those of the question.

    `.frame` has the columns of `WordVectors.analogy`.
    """
    table = vectors.analogy(a, b, c, k)
    kinds = table["query"].map({True: "in the question", False: "answer"})
    named = f"{a!r} − {b!r} + {c!r}"
    drawing = _neighbours(table, named, kinds)
    answers = table[~table["query"]]
    said = f"{named}: no answer was listed"
    if len(answers):
        said = (
            f"{named}: the best answer is {_first(answers)}; it has rank "
            f"{int(answers['rank'].iloc[0])} among all words, the question's own included"
        )
    asked = f"Which word is to {c!r} as {a!r} is to {b!r}?"
    drawn = {"Answers": drawing}
    return Answer("analogy", table, said, drawn, question=asked, columns=ANALOGY_COLUMNS)


def axis(
    vectors: WordVectors,
    *others: str,
    positive: Sequence[str],
    negative: Sequence[str],
    resamples: int = 999,
    seed: int = 0,
) -> Answer:
    """Words on the axis between two word sets, and the separation of left-out words by it.

    Args:
        vectors: the words of a space.
        others: further words to place on the axis.
        positive: two or more words of the positive end.
        negative: two or more words of the negative end.
        resamples: number of shuffles of the words over the two sets.
        seed: seed of the shuffles.

    `.frame` has the columns of `WordVectors.axis`; the table `separation` has the area under the
    curve (`auc`) of left-out words, `shuffled_auc` and `p`.
    """
    ends = list(positive), list(negative)
    table = vectors.axis(*ends, list(others))
    sides = [vectors.select(end).vectors for end in ends]
    auc, null, p = axis_separation(*sides, permutations=resamples, seed=seed)
    said = (
        f"the axis separates left-out words with AUC {auc:.3f}; with words dealt to the two sides "
        f"at random {null:.3f} (p = {p:.2g})"
    )
    names = {"word": "name", "projection": "value", "side": "group"}
    drawing = Drawing(
        "bars",
        f"From {ends[1][0]} … to {ends[0][0]} …",
        table.sort_values("projection").rename(columns=names)[list(names.values())],
        "cosine with the axis",
        caption="Each word of the two sets is projected on an axis made without it.",
        control=f"Control: {said}.",
    )
    return Answer(
        "axis",
        table,
        said,
        {"Words on the axis": drawing},
        {"separation": pd.DataFrame([{"auc": auc, "shuffled_auc": null, "p": p}])},
        columns=AXIS_COLUMNS,
        question="Does the axis between two word sets order words that did not make it?",
    )


def cosines(vectors: WordVectors, *words: str) -> Answer:
    """Cosine of every word with every other, and along their sequence, against random pairs.

    Args:
        vectors: the words of a space.
        words: two or more words.

    `.frame` has a row per word and a column per word; the table `along` is that of
    `WordVectors.along`. Raises `BadInput` for a single word.
    """
    if len(words) < 2:
        raise BadInput("one word has no cosine with another; name two or more")
    table = vectors.cosines(words)
    mean, spread = vectors.anisotropy
    pairs = table.to_numpy()[np.triu_indices(len(words), k=1)]
    here = f"{pairs[np.isfinite(pairs)].mean():.3f}" if np.isfinite(pairs).any() else "undefined"
    said = f"all pairs of the vocabulary: mean {mean:.3f}, standard deviation {spread:.3f}"
    own = table.to_numpy().diagonal()
    undefined = [word for word, cosine in zip(words, own, strict=True) if np.isnan(cosine)]
    if undefined:
        said += f"; without a direction (zero vector): {', '.join(map(repr, undefined))}"
    places = table.set_axis(range(len(words)), axis=0).set_axis(range(len(words)), axis=1)
    drawing = Drawing(
        "heat",
        "Cosines",
        cell_rows(places),
        "cosine",
        control=f"Control: {said}.",
        options={"rows": list(words), "columns": list(words), "down": True},
    )
    return Answer(
        "cosines",
        table.rename_axis("word").reset_index(),
        f"the {len(pairs)} pairs of these words have a mean cosine of {here}; {said}",
        {"Cosines": drawing},
        {"along": vectors.along(words)},
        columns={word: f"cosine with {word!r}" for word in words} | COSINE_COLUMNS,
        question="How alike are these words?",
    )


def graph(vectors: WordVectors, *words: str, threshold: float = 0.5) -> Answer:
    """Graph of words joined by a cosine above a threshold, with the number of edges by chance.

    Args:
        vectors: the words of a space.
        words: two or more words.
        threshold: smallest cosine that joins two words, −1 to 1.

    `.frame` has the edges, the table `nodes` the words; see `WordVectors.graph`.
    """
    found = vectors.graph(words, threshold)
    said = (
        f"{len(found.edges)} of {found.pairs} pairs are joined; random pairs of this vocabulary "
        f"would give {found.vocabulary_edges:.1f}, random directions {found.random_edges:.1f}"
    )
    return Answer(
        "edges",
        found.edges,
        said,
        {"Graph": found.drawing()},
        {"nodes": found.nodes},
        columns=GRAPH_COLUMNS,
        question=f"Which words have a cosine above {threshold:g}?",
    )


def picture(
    vectors: WordVectors,
    *words: str,
    method: str = "pca",
    perplexity: float = 30.0,
    seed: int = 0,
) -> Answer:
    """Map of the words in two dimensions, with its trustworthiness.

    Args:
        vectors: the words of a space.
        words: words to draw; by default all.
        method: the projection: pca or tsne.
        perplexity: perplexity of tsne.
        seed: seed of tsne.

    `.frame` has a row per word with its place. Raises `UnknownName` for another method.
    """
    if method not in ("pca", "tsne"):
        raise unknown("picture", method, ("pca", "tsne"))
    chosen = list(words) or None
    if method == "pca":
        seen = vectors.pca(words=chosen)
    else:
        seen = vectors.tsne(words=chosen, perplexity=perplexity, seed=seed)
    trust = (
        "its trustworthiness is unknown, which needs 25 words"
        if np.isnan(seen.trustworthiness)
        else f"trustworthiness {seen.trustworthiness:.3f}, "
        f"with its points shuffled {seen.shuffled:.3f}"
    )
    said = f"{seen.method} of {len(seen.words)} words; {trust}"
    drawn = {"Map": seen.drawing()}
    asked = "Which words lie together?"
    first = _whole_words(seen.frame)
    return Answer("map", seen.frame, said, drawn, question=asked, columns=MAP_COLUMNS, first=first)


def _whole_words(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of whole words; all rows where there are none."""
    whole = whole_words(table["word"].tolist())
    return table[whole] if any(whole) else table


def clusters(
    vectors: WordVectors,
    *words: str,
    method: str = "hdbscan",
    min_size: int = 10,
    eps: float | None = None,
    components: int = 10,
    resamples: int = 10,
    seed: int = 0,
) -> Answer:
    """Clusters of words, their stability, and the clusters of random vectors.

    Args:
        vectors: the words of a space.
        words: words to cluster; by default all.
        method: the algorithm: hdbscan or dbscan.
        min_size: smallest cluster (hdbscan), or neighbours of a core word (dbscan).
        eps: radius of dbscan.
        components: number of principal components to keep.
        resamples: number of repetitions with four fifths of the words, for the stability.
        seed: seed of the resamples and of the random vectors.

    `.frame` has the cluster of each word (−1 for noise), the table `stability` an adjusted Rand
    index per resample, of these vectors and of Gaussian ones; see `WordVectors.clusters`.
    """
    options: dict[str, Any] = {"method": method, "min_size": min_size, "eps": eps}
    options |= {"components": components, "resamples": resamples, "seed": seed}
    found = vectors.clusters(words=list(words) or None, **options)
    runs = pd.DataFrame({"stability": found.stability, "random": found.random_stability})
    stable, random = (
        f", stability {np.nanmean(x):.2f}" if np.isfinite(x).any() else "" for x in runs.T.values
    )
    said = (
        f"{found.n} clusters of {len(found.words)} words, {percent(found.noise)} noise{stable}"
        f"{' (adjusted Rand index)' * bool(stable)}; Gaussian vectors of this size: "
        f"{found.random_clusters} clusters{random}"
    )
    seen = (vectors if not words else vectors.select(list(words))).pca()
    title = "Clusters on the first two principal components"
    return Answer(
        "clusters",
        found.frame,
        said,
        {title: replace(seen.drawing(found.names), title=title)},
        {"stability": runs},
        columns=CLUSTER_COLUMNS,
        question="Do the words fall into groups?",
        first=_cluster_rows(found.frame),
    )


def _cluster_rows(table: pd.DataFrame, most: int = 8) -> pd.DataFrame:
    """A row per cluster, the noise last: its size and its first whole words."""
    rows = []
    for cluster, group in table.groupby("cluster"):
        words = [word.strip() for word in _whole_words(group)["word"].head(most)]
        name = "noise" if cluster == -1 else str(cluster)
        rows.append({"cluster": name, "size": len(group), "words": ", ".join(words)})
    return pd.DataFrame([*rows[1:], rows[0]] if rows[0]["cluster"] == "noise" else rows)
