"""Questions put to the words of a space, each answered with its control.

Knows `WordVectors`, its answers and how to tell them; where the vectors come from is not its
business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp.errors import BadInput, unknown
from interp.experiments.nearest import RANDOM_NOTE
from interp.experiments.words import WordVectors
from interp.measures.axes import axis_separation
from interp.render.drawing import Drawing, cell_rows
from interp.render.finding import Answer


def _neighbours(table: pd.DataFrame, title: str, group: pd.Series[Any] | None = None) -> Drawing:
    names = {"word": "name", "cosine": "value", "random_cosine": "control"}
    rows = table.rename(columns=names)[list(names.values())]
    if group is not None:
        rows = rows.assign(group=group)
    return Drawing("bars", title, rows, "cosine", control=RANDOM_NOTE)


def near(
    vectors: WordVectors, word: str, *, k: int = 10, by: Literal["cosine", "dot"] = "cosine"
) -> Answer:
    """The nearest words to a word, beside random directions.

    Args:
        vectors: the words of a space.
        word: a word.
        k: how many.
        by: cosine or dot.

    `.frame` as `WordVectors.nearest` describes it.
    """
    table = vectors.nearest(word, k, by=by)
    title = f"Words nearest to {word!r}"
    asked = f"Which words lie nearest to {word!r}?"
    return Answer("near", table, title, {"Neighbours": _neighbours(table, title)}, asked=asked)


def analogy(vectors: WordVectors, a: str, b: str, c: str, *, k: int = 10) -> Answer:
    """Words nearest to a − b + c; the words of the question are marked, not left out.

    Args:
        vectors: the words of a space.
        a: a of a − b + c.
        b: b.
        c: c.
        k: how many.

    `.frame` as `WordVectors.analogy` describes it.
    """
    table = vectors.analogy(a, b, c, k)
    kinds = table["query"].map({True: "in the question", False: "answer"})
    drawing = _neighbours(table, f"{a} − {b} + {c}", kinds)
    asked = f"What is to {c!r} as {a!r} is to {b!r}?"
    return Answer(
        "analogy", table, f"nearest to {a} − {b} + {c}", {"Answers": drawing}, asked=asked
    )


def axis(
    vectors: WordVectors,
    *others: str,
    positive: Sequence[str],
    negative: Sequence[str],
    resamples: int = 999,
    seed: int = 0,
) -> Answer:
    """Words on the axis between two word sets, and whether the axis separates left-out words.

    Args:
        vectors: the words of a space.
        others: further words to place on the axis.
        positive: words of one end.
        negative: words of the other end.
        resamples: shuffles of the words over the two sets.
        seed: of everything random.

    `.frame` as `WordVectors.axis` describes it; the table `separation` has the area under the
    curve (`auc`) of left-out words, `shuffled_auc` and `p`.
    """
    ends = list(positive), list(negative)
    table = vectors.axis(*ends, list(others))
    sides = [vectors.select(end).vectors for end in ends]
    auc, null, p = axis_separation(*sides, permutations=resamples, seed=seed)
    said = (
        f"left-out words: AUC {auc:.3f}; with words dealt to the sides at random {null:.3f} "
        f"(p = {p:.2g})"
    )
    names = {"word": "name", "projection": "value", "side": "group"}
    drawing = Drawing(
        "bars",
        f"From {ends[1][0]} … to {ends[0][0]} …",
        table.sort_values("projection").rename(columns=names)[list(names.values())],
        "cosine with the axis",
        caption=f"Words of the two sets stand on an axis made without them; {said}.",
    )
    return Answer(
        "axis",
        table,
        said,
        {"Words on the axis": drawing},
        {"separation": pd.DataFrame([{"auc": auc, "shuffled_auc": null, "p": p}])},
        asked="Does the difference of two word sets order words that it was not made of?",
    )


def cosines(vectors: WordVectors, *words: str) -> Answer:
    """Cosine of every word with every other, and along their sequence, beside random pairs.

    Args:
        vectors: the words of a space.
        words: two words or more.

    `.frame` has a row per word and a column per word; the table `along` is that of
    `WordVectors.along`. Raises `BadInput` for a single word.
    """
    if len(words) < 2:
        raise BadInput("one word has no cosine with another; name two or more")
    table = vectors.cosines(words)
    mean, spread = vectors.anisotropy
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
        said,
        {"Cosines": drawing},
        {"along": vectors.along(words)},
        asked="How alike are these words?",
    )


def graph(vectors: WordVectors, *words: str, threshold: float = 0.5) -> Answer:
    """Words joined where their cosine is above a threshold, beside how many edges chance gives.

    Args:
        vectors: the words of a space.
        words: words.
        threshold: least cosine of an edge.

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
        asked=f"Which words have a cosine above {threshold:g}?",
    )


def picture(
    vectors: WordVectors,
    *words: str,
    method: str = "pca",
    perplexity: float = 30.0,
    seed: int = 0,
) -> Answer:
    """A picture of the words in two dimensions, and how far to trust it.

    Args:
        vectors: the words of a space.
        words: these words only; all unless given.
        method: pca or tsne.
        perplexity: of t-SNE.
        seed: of everything random.

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
        "how far to trust it is not known: trustworthiness needs 25 words"
        if np.isnan(seen.trustworthiness)
        else f"trustworthiness {seen.trustworthiness:.3f}, "
        f"with its points shuffled {seen.shuffled:.3f}"
    )
    said = f"{seen.method} of {len(seen.words)} words; {trust}"
    drawn = {"Map": seen.drawing()}
    return Answer("map", seen.frame, said, drawn, asked="Which words lie together?")


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
    """Clusters of words, whether they would come again, and those of random vectors.

    Args:
        vectors: the words of a space.
        words: these words only; all unless given.
        method: hdbscan or dbscan.
        min_size: smallest cluster, or core neighbours.
        eps: radius of dbscan.
        components: principal components kept.
        resamples: how often it is clustered again.
        seed: of everything random.

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
        f"{found.n} clusters of {len(found.words)} words, {found.noise:.0%} noise{stable}"
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
        asked="Do the words fall into groups?",
    )
