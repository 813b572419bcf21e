"""Words and their vectors: neighbours, analogies, semantic axes, graphs, pictures, clusters.

The mathematics is in `interp.measures`; here are the words and their tables. Knows nothing of
hooks or prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from scipy import sparse

from interp._arrays import Array, Floats, Ints
from interp.errors import BadInput, nearest
from interp.measures.axes import axis_of, left_out
from interp.measures.spectrum import (
    BLOCK,
    CovarianceSpectrum,
    anisotropy,
    blocks,
    checked,
    covariance_spectrum,
    random_cosine,
    random_cosine_above,
    random_embedding,
    units,
)
from interp.measures.trust import trust_of_each
from interp.models.weights import embedding_matrix
from interp.prompts.tokens import token_strings
from interp.render.draw import figure
from interp.render.drawing import Drawing
from interp.render.look import looked
from interp.render.tokens import percent

MOST_NODES = 200  # drawn


@dataclass(frozen=True, eq=False)
class Projection:
    """Words in few dimensions, with the trustworthiness of the picture.

    Attributes:
        points: `[n, k]`.
        words: one per point.
        method: "PCA", or t-SNE with the library that ran.
        explained: share of the variance per axis (PCA).
        kl: final KL divergence (t-SNE); NaN for PCA.
        trustworthiness: of the picture, see `trustworthiness`; NaN below 25 words.
        shuffled: trustworthiness of the same picture with its points shuffled, about 0.5.
    """

    points: Floats
    words: tuple[str, ...]
    method: str
    explained: Floats
    kl: float
    trustworthiness: float
    shuffled: float

    @property
    def frame(self) -> pd.DataFrame:
        """One row per word: `word`, `x`, `y`, further axes as `axis_2` …"""
        names = [*"xy", *(f"axis_{i}" for i in range(2, self.points.shape[1]))]
        table = pd.DataFrame(self.points, columns=names[: self.points.shape[1]])
        table.insert(0, "word", self.words)
        return table

    def plot(self, groups: Mapping[str, str] | Sequence[str] | None = None, **look: Any) -> Any:
        """The first two axes as a plotly figure, with the trustworthiness in its caption.

        Args:
            groups: a name per word, or a mapping from words to names; each name has a colour.
            look: `width`, `height`, `title`, `palette`, `legend`, as for `Finding.plot`.
        """
        return looked(figure(self.drawing(groups)), look)

    def drawing(self, groups: Mapping[str, str] | Sequence[str] | None = None) -> Drawing:
        """The first two axes; named groups have colours, all else is grey."""
        titles = None  # units and directions of t-SNE mean nothing
        if self.method == "PCA":
            shares = [percent(x) for x in self.explained[:2]]
            titles = [f"component {i}, {x} of the variance" for i, x in enumerate(shares)]
        return Drawing(
            "projection",
            f"{len(self.words):,} words, {self.method}",
            self.frame.assign(group=_groups(self.words, groups)),
            caption=self._how_faithful(),
            options={"titles": titles},
        )

    def _how_faithful(self) -> str:
        parts = [] if np.isnan(self.kl) else [f"KL divergence {self.kl:.2f}."]
        if np.isnan(self.trustworthiness):
            parts.append("Trustworthiness is unknown: it needs 25 words.")
        else:
            parts.append(
                f"Trustworthiness of the neighbours in the picture: {self.trustworthiness:.2f}; "
                f"{self.shuffled:.2f} if its points are shuffled."
            )
        return " ".join(parts)


def _groups(words: Sequence[str], groups: Mapping[str, str] | Sequence[str] | None) -> list[str]:
    """A name per word, "" for none."""
    if groups is None:
        return [""] * len(words)
    if isinstance(groups, Mapping):
        # Tokens carry the space before them; people name words without.
        return [str(groups.get(w, groups.get(w.strip(), ""))) for w in words]
    if isinstance(groups, str) or len(groups) != len(words):
        n = "a text" if isinstance(groups, str) else f"{len(groups)} groups"
        raise BadInput(f"{n} for {len(words)} words; give one per word, or a mapping by word")
    return [str(g) for g in groups]


@dataclass(frozen=True, eq=False)
class Clusters:
    """Clusters of words, with their stability under resampling.

    Attributes:
        labels: cluster of each word, −1 for noise.
        words: one per label.
        stability: adjusted Rand index between the clusters and those of each resample, on the
            words that both have and that are not noise in both.
        random_clusters, random_stability: the same for a Gaussian embedding of the same size;
            the stability is NaN where it has no clusters.
    """

    labels: Ints
    words: tuple[str, ...]
    stability: Floats
    random_clusters: int
    random_stability: Floats

    @property
    def n(self) -> int:
        """Number of clusters."""
        return int(self.labels.max(initial=-1)) + 1

    @property
    def noise(self) -> float:
        """Share of the words that belong to no cluster."""
        return float((self.labels < 0).mean())

    @property
    def frame(self) -> pd.DataFrame:
        """`word`, `cluster`."""
        return pd.DataFrame({"word": self.words, "cluster": self.labels})

    @property
    def names(self) -> list[str]:
        """ "cluster 0" …, or "noise", per word: the groups of a picture of the same words."""
        return [f"cluster {i}" if i >= 0 else "noise" for i in self.labels]


@dataclass(frozen=True, eq=False)
class Graph:
    """Pairs of words whose cosine is above a threshold.

    Attributes:
        edges: `word_a`, `word_b`, `cosine`, largest first.
        nodes: `word`, `component` (number of its connected part), `degree`.
        pairs: number of pairs of words.
        random_edges: expected number of edges if directions were random.
        vocabulary_edges: expected number for random pairs of this vocabulary.
    """

    edges: pd.DataFrame
    nodes: pd.DataFrame
    pairs: int
    random_edges: float
    vocabulary_edges: float

    def plot(self, **look: Any) -> Any:
        """Words on a circle, joined if they are alike; a plotly figure.

        `look`: `width`, `height`, `title`, `palette`, `legend`, as for `Finding.plot`.
        """
        return looked(figure(self.drawing()), look)

    def drawing(self) -> Drawing:
        """The words of the largest connected parts, and their edges."""
        sizes = self.nodes.groupby("component")["word"].transform("size")
        order = self.nodes.assign(size=sizes).sort_values(
            ["size", "component"], ascending=[False, True], kind="stable"
        )
        shown = order.drop_duplicates("word").head(MOST_NODES)
        cut = (
            f" The {len(shown)} words of the largest parts are drawn."
            if len(shown) < len(self.nodes)
            else ""
        )
        caption = (
            f"{len(self.edges)} of {self.pairs} pairs are above the threshold. Places on the "
            f"circle mean nothing.{cut}"
        )
        control = (
            f"Control: so many random pairs of the vocabulary would give "
            f"{self.vocabulary_edges:.1f} edges, random directions {self.random_edges:.2g}."
        )
        return Drawing(
            "graph",
            "Words joined by their cosine",
            shown,
            caption=caption,
            control=control,
            options={"edges": self.edges},
        )


@dataclass(frozen=True, eq=False)
class WordVectors:
    """One vector per word: `vectors [n, d]`, `words` in the same order.

    Of " king" and "king", two tokens of many vocabularies, "king" means the one with the space,
    which is the word in running text; the other is a piece from inside words, reached by its row
    (`nearest(space.vectors[i])`). Without such a pair a word is looked up as it is written.

    >>> space = WordVectors(np.eye(3), ("red", "green", "blue"))
    >>> space.cosines(["red", "blue"]).loc["red", "blue"].item()
    0.0
    """

    vectors: Array
    words: tuple[str, ...]

    def __post_init__(self) -> None:
        checked(self.vectors)
        if len(self.vectors) != len(self.words):
            raise BadInput(f"{len(self.words)} words for {len(self.vectors)} vectors")

    @classmethod
    def of(cls, model: Any, matrix: str = "W_E") -> Self:
        """Rows of `"W_E"` or columns of `"W_U"` of a model, by the text of its tokens."""
        vectors = embedding_matrix(model, matrix)
        strings = token_strings(range(len(vectors)), getattr(model, "tokenizer", None))
        return cls(vectors, tuple(strings[i] for i in range(len(vectors))))

    @cached_property
    def _index(self) -> Mapping[str, int]:
        # Of several tokens with the same text the first is meant.
        return {word: i for i, word in reversed(list(enumerate(self.words)))}

    @cached_property
    def _unit(self) -> Array:
        """Rows of length 1 in the dtype of the vectors: half the memory of float64."""
        out = np.empty_like(self.vectors)
        for start in range(0, len(out), BLOCK):
            out[start : start + BLOCK] = units(self.vectors[start : start + BLOCK])
        return out

    def find(self, word: str) -> int:
        """Index of a word; raises `BadInput` with similar words if it is not there."""
        if (text := self._here(word)) is not None:
            return self._index[text]
        texts = list(dict.fromkeys(w.strip() for w in self.words))
        some = [repr(text) for text in texts if text.isalpha() and len(text) > 1][:3]
        hint = nearest(word, texts) or (f"; words of it are {', '.join(some)} …" if some else "")
        raise BadInput(
            f"{word!r} is no single token of this vocabulary of {len(self.words):,}{hint}"
        )

    def known(self, words: Sequence[str]) -> list[str]:
        """The words that are in the vocabulary, as they are written there."""
        return [text for text in dict.fromkeys(map(self._here, words)) if text is not None]

    def _here(self, word: str) -> str | None:
        """A word as this vocabulary writes it: with a leading space, if that is a token."""
        return next((text for text in (f" {word}", word) if text in self._index), None)

    @cached_property
    def _constant(self) -> bool:
        return bool((self.vectors == self.vectors[0]).all())

    def _find_all(self, words: Sequence[str]) -> Ints:
        if isinstance(words, str):
            raise BadInput(f"expected a list of words, got the text {words!r}")
        return np.asarray([self.find(word) for word in words], dtype=np.int64)

    def _find_two(self, words: Sequence[str]) -> Ints:
        if len(words) < 2:
            raise BadInput(f"{len(words)} words; two or more are needed to have a pair")
        return self._find_all(words)

    def select(self, words: Sequence[str]) -> WordVectors:
        """The same space with these words only."""
        rows = self._find_all(words)
        return WordVectors(self.vectors[rows], tuple(self.words[i] for i in rows))

    def centred(self) -> WordVectors:
        """The same words without the mean vector, the main cause of anisotropy."""
        mean = self.vectors.mean(axis=0, dtype=np.float64)
        if self._constant:
            raise BadInput(
                f"all {len(self.words)} vectors are the same: without their mean nothing is left"
            )
        return WordVectors((self.vectors - mean).astype(self.vectors.dtype), self.words)

    def random(self, seed: int = 0) -> WordVectors:
        """The same words with Gaussian vectors: the control."""
        return WordVectors(random_embedding(self.vectors, seed), self.words)

    # -- neighbours and cosines --

    def nearest(
        self, word: str | Array, k: int = 10, *, by: Literal["cosine", "dot"] = "cosine"
    ) -> pd.DataFrame:
        """The `k` words nearest to a word (itself left out) or to a vector `[d]`.

        Returns `word`, `index`, `cosine`, `dot`, and `random_cosine`: the median that the
        neighbour of the same rank would have if all directions were random.
        """
        if by not in ("cosine", "dot"):
            raise BadInput(f"by={by!r}; allowed: 'cosine', 'dot'")
        _at_least("k", k, 1, "words to show")
        own = self.find(word) if isinstance(word, str) else None
        vector = self._vector(self.vectors[own] if isinstance(word, str) else word)
        if self._constant:
            raise BadInput(f"all {len(self.words)} vectors are the same: none is nearest")
        dots = np.asarray(self.vectors @ vector.astype(self.vectors.dtype), np.float64)
        cosines = np.asarray(self._unit @ units(vector).astype(self.vectors.dtype), np.float64)
        score = np.where(np.isnan(cosines), -np.inf, dots if by == "dot" else cosines)
        if own is not None:
            score[own] = -np.inf
        n = len(self.words) - (own is not None)
        best = np.argsort(-score, kind="stable")[: min(k, n)]
        return pd.DataFrame(
            {
                "word": [self.words[i] for i in best],
                "index": best,
                "cosine": cosines[best],
                "dot": dots[best],
                "random_cosine": random_cosine(np.arange(1, len(best) + 1), n, len(vector)),
            }
        )

    def _vector(self, vector: Array) -> Floats:
        vector = np.asarray(vector, dtype=np.float64)
        if vector.shape != self.vectors.shape[1:]:
            raise BadInput(
                f"a vector of shape {vector.shape}; this space has vectors {self.vectors.shape[1:]}"
            )
        if not np.isfinite(vector).all() or not vector.any():
            what = "only zeros" if np.isfinite(vector).all() else "values that are not finite"
            raise BadInput(f"the vector holds {what}: it has no direction, so nothing is near it")
        return vector

    def cosines(self, words: Sequence[str], others: Sequence[str] | None = None) -> pd.DataFrame:
        """Cosine of every word with every other: a matrix with the words at its sides."""
        others = words if others is None else others
        a, b = (units(self.vectors[self._find_all(w)]) for w in (words, others))
        return pd.DataFrame(a @ b.T, index=list(words), columns=list(others))

    def along(self, words: Sequence[str]) -> pd.DataFrame:
        """Cosine of each word with the next one: `word`, `next`, `cosine`, `random_pairs`.

        `random_pairs` is the mean over all pairs of the vocabulary, the same in every row.
        """
        unit = units(self.vectors[self._find_two(words)])
        cosines = (unit[:-1] * unit[1:]).sum(axis=1)
        table = pd.DataFrame({"word": words[:-1], "next": words[1:], "cosine": cosines})
        return table.assign(random_pairs=self.anisotropy[0])

    @cached_property
    def anisotropy(self) -> tuple[float, float]:
        """Mean and standard deviation of the cosine over all pairs of words."""
        return anisotropy(self.vectors)

    def graph(self, words: Sequence[str], threshold: float = 0.5) -> Graph:
        """Words as nodes, joined where their cosine is above the threshold."""
        if not -1 <= threshold <= 1:
            raise BadInput(f"threshold {threshold!r} is no cosine: allowed are −1 to 1")
        rows = self._find_two(words)
        if len(set(rows)) < len(rows):
            twice = sorted({w for w, i in zip(words, rows, strict=True) if (rows == i).sum() > 1})
            raise BadInput(f"a word is one node of a graph; named more than once: {twice}")
        cosines = self.cosines(words).to_numpy()
        i, j = np.triu_indices(len(words), k=1)
        keep = cosines[i, j] > threshold
        adjacency = sparse.coo_array((np.ones(keep.sum()), (i[keep], j[keep])), cosines.shape)
        _, component = sparse.csgraph.connected_components(adjacency, directed=False)
        edges = pd.DataFrame(
            {
                "word_a": [words[x] for x in i[keep]],
                "word_b": [words[x] for x in j[keep]],
                "cosine": cosines[i, j][keep],
            }
        ).sort_values("cosine", ascending=False, ignore_index=True, kind="stable")
        degree = np.bincount(np.concatenate([i[keep], j[keep]]), minlength=len(words))
        nodes = pd.DataFrame({"word": list(words), "component": component, "degree": degree})
        random = random_cosine_above(threshold, self.vectors.shape[1]) * len(i)
        return Graph(edges, nodes, len(i), random, self._share_above(threshold) * len(i))

    def _share_above(self, threshold: float, pairs: int = 200_000) -> float:
        """Share of random pairs of the vocabulary with a larger cosine."""
        random, n = np.random.default_rng(0), len(self.words)
        a = random.integers(n, size=pairs)
        b = (a + random.integers(1, n, size=pairs)) % n  # a step of 1 to n − 1: never a itself
        above = [
            np.einsum("nd,nd->n", self._unit[x], self._unit[y]) > threshold
            for x, y in zip(np.array_split(a, 50), np.array_split(b, 50), strict=True)
        ]
        return float(np.concatenate(above).mean())

    # -- analogies and axes --

    def analogy(self, a: str, b: str, c: str, k: int = 10) -> pd.DataFrame:
        """Words nearest to a − b + c, "king" − "man" + "woman", by cosine (3CosAdd).

        Vectors are scaled to length 1 first (Mikolov, Yih & Zweig, NAACL 2013). Returns the `k` + 3
        best words (up to three may be a, b and c): `word`, `cosine`, `rank` among all words,
        `query` (is it a, b or c?), `rank_without_query` (NaN for a, b and c) and `random_cosine` as
        for `nearest`. The nearest word is often one of the question itself, which most reports
        leave out silently.
        """
        rows = self._find_all([a, b, c])
        cosines = self._answers(rows[None])[0]
        if np.isnan(cosines).all():
            zero = [w for w, i in zip((a, b, c), rows, strict=True) if not self.vectors[i].any()]
            why = f"{zero[0]!r} has the zero vector" if zero else "it is the zero vector"
            raise BadInput(f"{a!r} − {b!r} + {c!r} has no direction: {why}; take other words")
        order = np.argsort(-cosines, kind="stable")  # NaN, of words without a direction, last
        query = np.isin(order, rows)
        table = pd.DataFrame(
            {
                "word": [self.words[i] for i in order[: k + 3]],
                "cosine": cosines[order[: k + 3]],
                "rank": np.arange(1, len(order[: k + 3]) + 1),
                "query": query[: k + 3],
                "rank_without_query": np.where(query, np.nan, (~query).cumsum())[: k + 3],
            }
        )
        return table.assign(
            random_cosine=random_cosine(table["rank"].to_numpy(), len(order), len(self.vectors[0]))
        )

    def _answers(self, rows: Ints) -> Floats:
        """Cosine of a − b + c with every word: rows `[n, 3]` to `[n, words]`; NaN if undefined."""
        a, b, c = (np.asarray(self._unit[rows[:, i]], np.float64) for i in range(3))
        wanted = units(a - b + c).astype(self.vectors.dtype)
        return np.asarray(wanted @ self._unit.T, np.float64)

    def analogies(
        self, questions: Sequence[tuple[str, str, str, str]], *, seed: int = 0
    ) -> pd.DataFrame:
        """Ranks of the right answers d of a − b + c: one row per question (a, b, c, d).

        Returns `a`, `b`, `c`, `d`, `rank` and `rank_without_query` (1 is best), and both for
        Gaussian vectors under the same words: `random_rank`, `random_rank_without_query`. NaN
        where a − b + c or d has no direction.
        """
        rows = np.asarray([self._find_all(q) for q in questions]).reshape(-1, 4)
        table = pd.DataFrame(list(questions), columns=["a", "b", "c", "d"])
        for prefix, space in (("", self), ("random_", self.random(seed))):
            ranks = [space._ranks(part) for part in np.array_split(rows, len(rows) // 64 + 1)]
            table[[f"{prefix}rank", f"{prefix}rank_without_query"]] = np.concatenate(ranks)
        return table

    def _ranks(self, rows: Ints) -> Floats:
        """Rank of d among all words, and among all but a, b and c: `[n, 2]`; NaN if undefined."""
        if not len(rows):
            return np.empty((0, 2))
        cosines = self._answers(rows[:, :3])
        right = np.take_along_axis(cosines, rows[:, 3:], 1)
        rank = 1 + (cosines > right).sum(axis=1)
        queries = np.zeros_like(cosines, dtype=bool)
        np.put_along_axis(queries, rows[:, :3], True, axis=1)
        ranks = np.stack([rank, 1 + ((cosines > right) & ~queries).sum(axis=1)], axis=1)
        return np.where(np.isnan(right), np.nan, ranks)

    def axis(
        self, positive: Sequence[str], negative: Sequence[str], words: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Projections of words on the axis between two word sets, the difference of their means.

        Returns one row per word: `word`, `side` ("positive", "negative" or "other"),
        `projection` (cosine with the axis) and `percentile` (share of the vocabulary with a
        smaller one). A word of the two sets is projected on the axis made without it, or the axis
        would separate the words that it was made of; see `axis_separation`.
        """
        rows = [self._find_all(side) for side in (positive, negative)]
        _check_ends(positive, negative, set(rows[0]) & set(rows[1]), self.words)
        ends = [units(self.vectors[side]) for side in rows]
        if not np.abs(ends[0].mean(axis=0) - ends[1].mean(axis=0)).max() > 1e-12:
            raise BadInput("both ends have the same mean direction: there is no axis between them")
        everyone = np.sort(np.asarray(self._unit @ axis_of(*ends).astype(self._unit.dtype)))
        own: list[tuple[str, str, Any]] = [
            *zip(positive, ["positive"] * len(positive), left_out(*ends), strict=True)
        ]
        own += zip(negative, ["negative"] * len(negative), -left_out(*ends[::-1]), strict=True)
        others = units(self.vectors[self._find_all(words)]) @ axis_of(*ends)
        everything = [*own, *zip(words, ["other"] * len(words), others, strict=True)]
        table = pd.DataFrame(everything, columns=["word", "side", "projection"])
        everyone = everyone[~np.isnan(everyone)]
        projection = table["projection"].to_numpy(np.float64)
        below = np.searchsorted(everyone, projection) / len(everyone)
        return table.assign(percentile=np.where(np.isnan(projection), np.nan, below))

    # -- pictures and clusters --

    def pca(self, k: int = 2, *, words: Sequence[str] | None = None) -> Projection:
        """The words on the first `k` principal components (of these words)."""
        space = self if words is None else self.select(words)
        n, d = space.vectors.shape
        if not 1 <= k <= min(n - 1, d):
            raise BadInput(
                f"k={k!r} components of {n} words in {d} dimensions: 1 to {min(n - 1, d)}"
            )
        seen = space._spectrum()
        points = space._project(seen, k)
        trust = _trust(space.vectors, points)
        return Projection(points, space.words, "PCA", seen.share[:k], np.nan, *trust)

    def _spectrum(self) -> CovarianceSpectrum:
        """Spectrum of the covariance; raises `BadInput` if all vectors are the same."""
        seen = covariance_spectrum(self.vectors)
        # Rounding leaves a constant some variance, tiny against the square of its mean.
        if not seen.eigenvalues[0] > 1e-24 * float(seen.mean @ seen.mean):
            raise BadInput(f"all {seen.n} vectors are the same: there is nothing to draw or group")
        return seen

    def _project(self, seen: CovarianceSpectrum, k: int) -> Floats:
        axes = seen.directions[:k].T
        return np.concatenate([(b - seen.mean) @ axes for b in blocks(self.vectors)])

    def tsne(
        self,
        *,
        words: Sequence[str] | None = None,
        perplexity: float = 30.0,
        components: int = 50,
        seed: int = 0,
        threads: int = 1,
    ) -> Projection:
        """A t-SNE picture of the PCA space, with its KL divergence and trustworthiness.

        openTSNE if it is installed (extra `embed`; minutes for 50,000 words), else scikit-learn.
        Source: van der Maaten & Hinton, JMLR 2008. Distances between far groups mean nothing.
        Raises `BadInput` if the perplexity is too large for the number of words.
        """
        space = self if words is None else self.select(words)
        n, d = space.vectors.shape
        if n < 5:
            raise BadInput(f"t-SNE of {n} words; it needs 5 or more: take PCA for few words")
        if not 1 < perplexity <= (n - 1) / 3:
            raise BadInput(
                f"perplexity {perplexity:g} for {n} words; allowed is more than 1 and at most a "
                f"third of the other words, here {(n - 1) / 3:.4g}"
            )
        _at_least("components", components, 2, "principal components, which the picture starts on")
        reduced = space._project(space._spectrum(), min(components, n - 1, d))
        points, kl, library = _tsne(reduced, perplexity, seed, threads)
        trust = _trust(space.vectors, points)
        return Projection(points, space.words, f"t-SNE ({library})", np.full(2, np.nan), kl, *trust)

    def clusters(
        self,
        *,
        words: Sequence[str] | None = None,
        method: Literal["hdbscan", "dbscan"] = "hdbscan",
        components: int = 10,
        min_size: int = 10,
        eps: float | None = None,
        resamples: int = 10,
        seed: int = 0,
    ) -> Clusters:
        """Clusters of the words in their PCA space (not in a picture), with their stability.

        Args:
            words: all unless given.
            method: "hdbscan" (Campello et al. 2013), or "dbscan" (Ester et al. 1996) with `eps`.
            components: principal components kept.
            min_size: smallest cluster (HDBSCAN), or neighbours of a core word (DBSCAN).
            eps: radius of DBSCAN.
            resamples: number of repetitions with four fifths of the words.
            seed: seed of the resamples and of the control.
        """
        _at_least("components", components, 1, "principal components")
        _at_least("resamples", resamples, 1, "clusterings of four fifths of the words")
        cluster = _clusterer(method, min_size, eps)
        space = self if words is None else self.select(words)
        k = min(components, len(space.words) - 1, space.vectors.shape[1])
        if len(space.words) < 2 * min_size:
            raise BadInput(
                f"{len(space.words)} words cannot make clusters of {min_size}; min_size is at most "
                f"half of them, here {len(space.words) // 2}"
            )
        labels, stability = _stable(space, k, cluster, resamples, seed)
        random, random_stability = _stable(space.random(seed), k, cluster, resamples, seed)
        return Clusters(labels, space.words, stability, int(random.max()) + 1, random_stability)


def _check_ends(
    positive: Sequence[str], negative: Sequence[str], both: set[int], words: Sequence[str]
) -> None:
    """Raise `BadInput` unless both ends of an axis have two words, all of them different."""
    needs = "an axis needs two words or more at both ends, none of them at both"
    if min(len(positive), len(negative)) < 2:
        raise BadInput(f"{needs}; these are {len(positive)} and {len(negative)}")
    if both:
        raise BadInput(f"{needs}; at both are {', '.join(sorted(repr(words[i]) for i in both))}")


def _at_least(name: str, value: int, least: int, what: str) -> None:
    if value < least:
        raise BadInput(f"{name}={value!r} {what}; the least is {least}")


def _trust(vectors: Array, points: Floats) -> tuple[float, float]:
    """Trustworthiness of a picture and of the same one shuffled; NaN for too few words."""
    k = 12
    if len(points) <= 2 * k:
        return np.nan, np.nan
    shuffled = points[np.random.default_rng(0).permutation(len(points))]
    seen, by_chance = trust_of_each(vectors, [points, shuffled], k)
    return seen, by_chance


def _tsne(reduced: Floats, perplexity: float, seed: int, threads: int) -> tuple[Floats, float, str]:
    """Points `[n, 2]`, final KL divergence, and which library ran."""
    # From the principal components, small: random starts put far groups anywhere, and large ones
    # hold the points back (Kobak & Berens, Nature Communications 2019).
    start = reduced[:, :2] / reduced[:, 0].std() * 1e-4
    try:
        library = import_module("openTSNE")
    except ImportError:
        from sklearn.manifold import TSNE

        fit = TSNE(perplexity=perplexity, init=start, random_state=seed, n_jobs=threads)
        points = np.asarray(fit.fit_transform(reduced), np.float64)
        return points, float(fit.kl_divergence_), "scikit-learn"
    made = library.TSNE(
        perplexity=perplexity, initialization=start, random_state=seed, n_jobs=threads
    ).fit(reduced)
    return np.asarray(made, np.float64), float(made.kl_divergence), "openTSNE"


def _clusterer(method: str, min_size: int, eps: float | None) -> Any:
    """A function from points `[n, k]` to labels `[n]`."""
    from sklearn import cluster

    _at_least("min_size", min_size, 2, "words in a cluster")
    if method == "hdbscan":
        return lambda x: cluster.HDBSCAN(min_cluster_size=min_size, copy=True).fit_predict(x)
    if method != "dbscan":
        known = ("hdbscan", "dbscan")
        raise BadInput(
            f"no clustering {method!r}{nearest(method, known)} (known: {', '.join(known)})"
        )
    if eps is None or eps <= 0:
        raise BadInput(f"DBSCAN needs a radius: eps={eps!r} must be above 0")
    return lambda x: cluster.DBSCAN(eps=eps, min_samples=min_size).fit_predict(x)


def _stable(
    space: WordVectors, k: int, cluster: Any, resamples: int, seed: int
) -> tuple[Ints, Floats]:
    """Labels of all words, and their agreement with the labels of each resample."""
    from sklearn.metrics import adjusted_rand_score

    points = space._project(space._spectrum(), k)
    # Resamples are drawn without replacement: repeated words would make clusters of their own.
    labels = np.asarray(cluster(points), np.int64)
    random, n = np.random.default_rng(seed), len(points)
    scores = np.full(resamples, np.nan)
    for i in range(resamples):
        rows = np.sort(random.permutation(n)[: n * 4 // 5])
        again = np.asarray(cluster(points[rows]), np.int64)
        some = (labels[rows] >= 0) | (again >= 0)
        if some.any() and labels.max() >= 0:
            scores[i] = adjusted_rand_score(labels[rows][some], again[some])
    return labels, scores
