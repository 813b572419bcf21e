"""Comparison of two spaces of words: every score with its permutation null."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats, Ints
from interp.contract.options import names_of
from interp.errors import BadInput, nearest, unknown
from interp.experiments.controls import with_untrained_copy
from interp.experiments.word_files import Pieces, WordSpace, named_space, word_space
from interp.measures.maps import SpaceMap, Width, affine, procrustes, relative_residual
from interp.measures.matrices import varying
from interp.measures.retrieval import SCORINGS, precision, ranks
from interp.measures.shapes import SHAPES, shape
from interp.measures.similarity import LEAST, SIMILARITIES, measure
from interp.models.load import load_model
from interp.models.untrained import check_control
from interp.render.drawing import Drawing
from interp.render.finding import Finding
from interp.stats.classical import holm
from interp.stats.nulls import Null, permuted

MAPS = ("procrustes", "affine")
METHODS = (*MAPS, *SIMILARITIES, *SHAPES)
DEFAULT = ("procrustes", "affine", "cka", "rsa", "mutual_knn")
AT = (1, 5, 10)
ALPHA = 0.05
COLUMNS = {
    "method": "map, similarity or shape metric",
    "score": "what is scored: relative residual, precision of a retrieval, or the similarity or "
    "distance itself",
    "value": "the score of the spaces as they are matched",
    "null_mean": "its mean when the rows of one space are permuted",
    "null_sd": "its standard deviation then",
    "p": "share of permutations that score at least as well, never 0",
    "p_holm": "p, corrected for the number of rows of this table (Holm)",
    "better": "whether a higher or a lower score means more alike spaces",
    "n": "words scored: held-out words for maps",
    "n_fit": "words that the map was fitted on; 0 for similarities and distances",
}


@dataclass(frozen=True, eq=False, repr=False)
class SpaceComparison(Finding):
    """Scores of two spaces with their nulls: the answer of `compare_spaces`.

    Attributes:
        frame: one row per method and score; `COLUMNS` gives the meaning of the columns.
        words: the words that both spaces have.
        notes: matching of the words and widths.
        a, b: sources of the spaces.
        nulls: scores of the permutations, by method and score.
    """

    name = "spaces"
    question = (
        "How alike are the two spaces? Maps are scored on words they were not fitted on; the null "
        "permutes the words of one space."
    )
    columns = COLUMNS

    frame: pd.DataFrame
    words: tuple[str, ...]
    notes: tuple[str, ...]
    a: str
    b: str
    nulls: dict[tuple[str, str], Floats] = field(default_factory=dict, repr=False)

    @property
    def sentence(self) -> str:
        """The score of every method against its null, and the number of hits."""
        # One score per method: the residual of a map, the similarity or distance itself. The
        # precisions are in the table.
        first = self.frame.drop_duplicates("method")
        scores = "; ".join(
            f"{row['method']}{' residual' if row['score'] == 'residual' else ''} "
            f"{row['value']:.3g} (permuted {row['null_mean']:.2g}, Holm p = {row['p_holm']:.2g})"
            for _, row in first.iterrows()
        )
        return f"{len(self.words)} words of {self.a} and {self.b}: {scores}; {self._verdict}"

    @property
    def _verdict(self) -> str:
        """Number of scores that beat permuted words, unless the permutations are too few."""
        n, draws = len(self.frame), min((len(x) for x in self.nulls.values()), default=0)
        if n > ALPHA * (draws + 1):
            return f"{draws} permutations are too few for Holm p < {ALPHA} in {n} rows"
        hits = int((self.frame["p_holm"] < ALPHA).sum())
        return f"{hits} of {n} scores are better than with permuted words (Holm p < {ALPHA})"

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Every score, and the middle 95 % of its permutation null."""
        frame = self.frame
        pairs = list(zip(frame["method"], frame["score"], strict=True))
        low, high = (
            np.asarray([np.quantile(self.nulls[pair], q) for pair in pairs]) for q in (0.025, 0.975)
        )
        table = pd.DataFrame(
            {
                "name": [m if m == s else f"{m} · {s}" for m, s in pairs],
                "value": frame["value"],
                "control": frame["null_mean"],
                "control_low": low,
                "control_high": high,
                "hover": [f"p (Holm) = {p:.3g}" for p in frame["p_holm"]],
            }
        )
        drawing = Drawing(
            "bars",
            f"{self.a} and {self.b}",
            table,
            "score (a residual or distance is better when it is lower)",
            caption=f"{'. '.join([f'{len(self.words)} words', *self.notes])}.",
            control="Grey: the same scores with the words of one space permuted.",
            options={
                "control_name": "permuted: mean and middle 95 %",
                "value_name": "as matched",
                "from_zero": True,
            },
        )
        return {"Scores": drawing}


@dataclass(frozen=True)
class _Settings:
    held_out: float
    width: Width
    scale: bool
    ridge: float
    k: int
    limit: int
    resamples: int
    seed: int


@dataclass(frozen=True, eq=False)
class _Data:
    """Matched vectors, and the space of b to shuffle them in."""

    x: Floats
    y: Floats
    space_b: WordSpace
    words: tuple[str, ...]
    settings: _Settings

    def null(self, score: Callable[[Floats], Any]) -> Null:
        """`score` of y as it is, and of y shuffled."""
        settings = self.settings
        if settings.resamples < 1:
            raise BadInput(
                f"resamples is {settings.resamples!r}; it must be 1 or more, such as 200"
            )
        rng = np.random.default_rng(settings.seed)
        draws = [
            np.asarray(score(self.space_b.permuted(self.words, rng)), np.float64)
            for _ in range(settings.resamples)
        ]
        return Null(np.asarray(score(self.y), np.float64), np.stack(draws))


def compare_spaces(
    a: Any,
    b: Any,
    *,
    words: str | Sequence[str] | None = None,
    method: str | Sequence[str] = DEFAULT,
    held_out: float = 0.2,
    pieces: Pieces = "mean",
    width: Width = "pca",
    scale: bool = True,
    ridge: float = 0.01,
    k: int = 10,
    limit: int = 1000,
    resamples: int = 500,
    seed: int = 0,
    control: str | None = None,
) -> SpaceComparison:
    """Compare two spaces of words: maps scored on held-out words, and similarities.

    Every score has its permutation null: the rows of b are shuffled, maps are fitted again, and
    everything is scored as before. Words of several tokens are rebuilt from shuffled tokens,
    because "walked" and "talked" share a piece in any two models, trained or not.

    Maps are scored by their residual and by precision@1, 5 and 10: whether the nearest word to the
    mapped vector is the word itself, by cosine, CSLS and inverted softmax. The last two also use
    the similarities of the words that the map was fitted on, as Conneau et al. (1710.04087) do with
    all words of the source; of theirs few were fitted on, here most are, and their targets are as
    good as taken: compare the cosine with published scores, and any of them with its own null.
    (Over the held-out words alone, only their targets would be penalised for their own words, and
    not even an exact copy would be found.)

    Args:
        a: a space of words: MODEL, MODEL:W_E or MODEL:W_U, or the path of a file with word
            vectors. In Python also `(model, "W_E")` or `(model, "W_U")` with a model as for
            `load_model`; the result of `read_word_vectors`; `WordVectors`; a table with a column
            `word`; or `(array [n, d], words)`.
        b: the second space, in the same form.
        words: the words to compare; by default those that are one token in both spaces. Words
            that you name may be several tokens.
        method: maps (procrustes, affine), similarities (cka, cka_biased, rsa, mutual_knn, svcca)
            and shape metrics, which are distances (angular_shape and angular_cca in radians, 0 to
            π/2; size_and_shape in the units of the vectors).
        held_out: share of the words on which maps are scored; maps are fitted on the others.
        pieces: vector of a word of several tokens: mean of its tokens, or last.
        width: spaces of different widths: pca (cut to leading axes) or pad (with zeros).
        scale: let Procrustes stretch the space by one factor; without it the residual of two
            models mostly reflects different lengths of their vectors.
        ridge: strength of the ridge penalty of the affine map.
        k: number of neighbours for mutual_knn and CSLS.
        limit: most words for rsa and mutual_knn, which need all pairs; drawn at random.
        resamples: number of permutations.
        seed: seed of the split, the draw and the permutations.
        control: repeat with an untrained copy of the second model: random-init.

    Raises `BadInput` for too few common words, constant or non-finite vectors and parameters out
    of range; `UnknownName` for a method that does not exist.
    """
    methods, words = names_of(method), None if words is None else names_of(words)
    for name in methods:
        if name not in METHODS:
            raise unknown("method", name, METHODS)
    _check(methods, held_out, limit)
    settings = _Settings(held_out, width, scale, ridge, k, limit, resamples, seed)
    a, b = named_space(a), named_space(b)
    if control is not None:
        b = _copied(control, b)
    space_a = word_space(a, "space a", words, pieces=pieces)
    space_b = word_space(b, "space b", words, pieces=pieces)
    common = _common(space_a, space_b, words)
    x, y = space_a.rows(common), space_b.rows(common)
    # Constant vectors have no direction, and any score of them would be rounding.
    varying(x, space_a.source), varying(y, space_b.source)
    notes = [*space_a.notes, *space_b.notes]
    if words is not None and len(common) < len(set(words)):
        notes.append(f"{len(set(words)) - len(common)} of {len(set(words))} words are not in both")
    data = _Data(x, y, space_b, tuple(common), settings)
    records: list[dict[str, Any]] = []
    nulls: dict[tuple[str, str], Floats] = {}
    for name in methods:
        rows, draws, note = (_mapped if name in MAPS else _similar)(name, data)
        records += rows
        nulls |= draws
        notes += note
    frame = pd.DataFrame(records)
    frame["p_holm"] = holm(frame["p"].to_numpy(np.float64))
    frame = frame[list(COLUMNS)]
    if len(frame) > ALPHA * (resamples + 1):
        notes.append(
            f"{resamples} permutations over {len(frame)} rows: p_holm cannot fall below "
            f"{min(1.0, len(frame) / (resamples + 1)):.2g}; raise resamples"
        )
    unique = tuple(dict.fromkeys(notes))
    found = SpaceComparison(frame, tuple(common), unique, space_a.source, space_b.source, nulls)
    if control is None:
        return found
    asked: dict[str, Any] = {"words": words, "method": methods, "pieces": pieces, "width": width}
    asked |= {"held_out": held_out, "scale": scale, "ridge": ridge, "k": k, "limit": limit}
    again = partial(_with_copy, a, b[1], **asked, resamples=resamples, seed=seed)
    return with_untrained_copy(found, control, b[0], again)


def _with_copy(a: Any, matrix: str, copy: Any, **asked: Any) -> SpaceComparison:
    return compare_spaces(a, (copy, matrix), **asked)


Part = tuple[list[dict[str, Any]], dict[tuple[str, str], Floats], list[str]]


def _check(methods: Sequence[str], held_out: float, limit: int) -> None:
    if not methods:
        raise BadInput(f"no method was asked for (known: {', '.join(METHODS)})")
    if not 0 < held_out < 1:
        raise BadInput(f"held_out is {held_out!r}; allowed is a share of words between 0 and 1")
    if limit < LEAST:
        raise BadInput(f"limit is {limit!r}; allowed is {LEAST} or more words")


def _copied(control: str, b: Any) -> tuple[Any, str]:
    """The second model, loaded once, and its matrix; refused before anything is computed."""
    if not isinstance(b, tuple) or not isinstance(b[1], str):
        source = b.source if isinstance(b, WordSpace) else "space b"
        raise BadInput(
            f"control={control!r} copies the second model, and {source} is no matrix of a model"
        )
    model = load_model(b[0])
    check_control(control, model)
    return model, b[1]


def _common(a: WordSpace, b: WordSpace, words: Sequence[str] | None) -> list[str]:
    wanted = dict.fromkeys(a.words if words is None else words)
    common = [word for word in wanted if word in a and word in b]
    if len(common) >= LEAST:
        return common
    if words is None:
        some = ", ".join(map(repr, a.words[:3])), ", ".join(map(repr, b.words[:3]))
        had = f"a has {len(a)}: {some[0]} …; b has {len(b)}: {some[1]} …"
        hint = "; words that are named may be several tokens"
    else:
        had = f"{len(wanted)} were named; a lacks {_lacking(wanted, a)}, b {_lacking(wanted, b)}"
        hint = ""
    raise BadInput(
        f"{a.source} and {b.source} have {len(common) or 'no'} words in common, at least {LEAST} "
        f"are needed ({had}){hint}"
    )


def _lacking(wanted: Iterable[str], space: WordSpace) -> str:
    """The first word that a space lacks, with a near one that it has."""
    lost = [word for word in wanted if word not in space]
    if not lost:
        return "none"
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"{lost[0]!r}{nearest(lost[0], space.words[:20_000])}{more}"


# ---- maps ------------------------------------------------------------------------------------


def _mapped(name: str, data: _Data) -> Part:
    settings, x = data.settings, data.x
    train, test = _split(len(x), settings)
    if settings.k > len(x):
        raise BadInput(f"k is {settings.k}; allowed is 1 to {len(x)}, the number of words")

    def fit(y: Floats) -> SpaceMap:
        if name == "affine":
            return affine(x[train], y[train], ridge=settings.ridge)
        return procrustes(x[train], y[train], scale=settings.scale, width=settings.width)

    null = data.null(lambda y: _map_scores(fit(y), x, y, test, settings.k))
    names = ["residual", *(f"{scoring}@{at}" for scoring in SCORINGS for at in AT)]
    part: Part = ([], {}, [f"{name}: {fit(data.y).how}"])
    for i, what in enumerate(names):
        one = Null(null.value[i], null.draws[:, i], lower_is_better=what == "residual")
        part[0].append(_record(name, what, one, len(test), len(train)))
        part[1][name, what] = one.draws
    return part


def _split(n: int, settings: _Settings) -> tuple[Ints, Ints]:
    order = np.random.default_rng(settings.seed).permutation(n)
    held = round(n * settings.held_out)
    if held < 1 or n - held < 2:
        raise BadInput(
            f"held_out={settings.held_out} of {n} words leaves {n - held} to fit on and {held} to "
            "score; at least 2 and 1 are needed"
        )
    return np.sort(order[held:]), np.sort(order[:held])


def _map_scores(fitted: SpaceMap, x: Floats, y: Floats, test: Ints, k: int) -> Floats:
    """Residual, then precision@1/5/10 for every scoring, on the held-out words."""
    mapped, target = fitted.source(x), fitted.target(y)
    out = [relative_residual(fitted, x[test], y[test])]
    for scoring in SCORINGS:
        found = ranks(mapped[test], target, test, scoring=scoring, sources=mapped, k=k)  # type: ignore[arg-type]
        out += [precision(found, at) for at in AT]
    return np.asarray(out)


# ---- similarities and distances --------------------------------------------------------------


def _similar(name: str, data: _Data) -> Part:
    settings, n = data.settings, len(data.x)
    notes, chosen = [], np.arange(n)
    if name in ("rsa", "mutual_knn") and n > settings.limit:
        chosen = np.sort(np.random.default_rng(settings.seed).permutation(n)[: settings.limit])
        notes.append(f"{name} is of {len(chosen)} words, drawn from {n}")
    distance = name in SHAPES
    kind = shape(name) if distance else measure(name, k=settings.k)
    first, same = kind.prepare(data.x[chosen]), np.arange(len(chosen))
    # Permuting prepared rows is cheap; with shared pieces the vectors themselves change, and every
    # permutation is prepared again.
    if data.space_b.tokens is None:
        second = kind.prepare(data.y[chosen])
        score: Callable[[Ints], float] = lambda order: kind.score(first, second, order)  # noqa: E731
        null = permuted(score, len(chosen), resamples=settings.resamples, seed=settings.seed)
    else:
        null = data.null(lambda y: kind.score(first, kind.prepare(y[chosen]), same))
    null = replace(null, lower_is_better=distance)
    return [_record(name, name, null, len(chosen), 0)], {(name, name): null.draws}, notes


def _record(name: str, what: str, null: Null, n: int, n_fit: int) -> dict[str, Any]:
    return {
        "method": name,
        "score": what,
        "value": float(null.value),
        "null_mean": float(null.mean),
        "null_sd": float(null.sd),
        "p": float(null.p),
        "better": "lower" if null.lower_is_better else "higher",
        "n": n,
        "n_fit": n_fit,
    }
