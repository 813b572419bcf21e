"""Translation between three spaces of words, on words that the map has not seen."""

from __future__ import annotations

from typing import Any

from scipy import stats

import interp
from docs.findings_build.parts import (
    CONFIDENCE,
    SIGNIFICANT,
    Measured,
    Numbers,
    listed,
    table,
    told,
    verdict,
)
from docs.findings_build.sources import Sources

TITLE = "Translating between GloVe, SmolLM2 and MiniLM"
WORDS = 1000
RESAMPLES = 249
METHODS = ("procrustes", "cka", "mutual_knn")
PUBLISHED = {
    "precision": 0.34,
    "source": "Smith et al. 1702.03859, for Mikolov's linear map from English to Italian",
}
SCORES = {
    "residual": "residual (1: nothing explained)",
    "cosine@1": "precision@1",
    "cosine@10": "precision@10",
    "cka": "CKA",
    "mutual_knn": "mutual neighbours",
}


def measure(sources: Sources) -> Measured:
    """Every pair of the three spaces compared on the same frequent words."""
    encoder = interp.load_model(sources.encoder)
    glove = interp.experiments.read_word_vectors(sources.vectors)
    model, other = (sources.bridge, "W_E"), (encoder, "W_E")
    words = common_words(glove.words, sources.bridge, encoder)
    pairs = {
        "GloVe and SmolLM2": (glove, model),
        "GloVe and MiniLM": (glove, other),
        "SmolLM2 and MiniLM": (model, other),
    }
    found = {
        name: interp.experiments.compare_spaces(
            *pair, words=words, method=METHODS, resamples=RESAMPLES
        )
        for name, pair in pairs.items()
    }
    untrained = interp.experiments.compare_spaces(
        glove,
        (interp.random_copy(sources.bridge), "W_E"),
        words=words,
        method=METHODS,
        resamples=RESAMPLES,
    )
    numbers = {
        "published": PUBLISHED,
        "words": len(words),
        "resamples": RESAMPLES,
        "pairs": {name: _scores(each) for name, each in found.items()},
        "untrained": _scores(untrained),
    }
    return Measured(numbers, {"translation": found["SmolLM2 and MiniLM"].plot()})


def common_words(ordered: Any, *bridges: Any) -> list[str]:
    """The most frequent words, in the order of the vectors, that are one token in every model."""
    known = [{w.strip() for w in _running(interp.WordVectors.of(b).words)} for b in bridges]
    chosen = (w for w in ordered if w.isalpha() and len(w) > 2 and all(w in k for k in known))
    return [word for word, _ in zip(chosen, range(WORDS), strict=False)]


def _running(tokens: Any) -> list[str]:
    """Tokens that begin a word: with a space before, or in a vocabulary that marks pieces (##)."""
    spaced = [t for t in tokens if t.startswith(" ")]
    return spaced or [t for t in tokens if not t.startswith("##")]


def _scores(found: Any) -> dict[str, Any]:
    rows = found.frame.set_index("score")
    scores = {
        score: {
            "value": float(rows.loc[score, "value"]),
            "null": float(rows.loc[score, "null_mean"]),
            "null_sd": float(rows.loc[score, "null_sd"]),
            "p": float(rows.loc[score, "p_holm"]),
        }
        for score in SCORES
    }
    n = int(rows.loc["cosine@1", "n"])
    return {
        "scores": scores,
        "held_out": n,
        "hits": sum(s["p"] < SIGNIFICANT for s in scores.values()),
        "scored": len(scores),
        "precision": _proportion(scores["cosine@1"]["value"], n),
    }


def _proportion(share: float, n: int) -> dict[str, float]:
    """A share of held-out words with its Wilson interval."""
    found = stats.binomtest(round(share * n), n).proportion_ci(CONFIDENCE, "wilson")
    return {"mean": share, "low": float(found.low), "high": float(found.high)}


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    columns = {**n["pairs"], "GloVe and untrained SmolLM2": n["untrained"]}
    rows = [
        (
            title,
            *(
                f"{c['scores'][score]['value']:.3f} ({c['scores'][score]['null']:.3f})"
                for c in columns.values()
            ),
        )
        for score, title in SCORES.items()
    ]
    held = next(iter(columns.values()))["held_out"]
    return "\n\n".join(
        [
            f"{n['words']} frequent words that are one token in both models. A rotation with one "
            f"stretch is fitted on the others and scored on {held} held-out words; in brackets the "
            f"mean of {n['resamples']} permutations of the words. Embedding matrices of the models "
            "(`W_E`).",
            table(("", *columns), rows),
            f"Better than permuted words (Holm, p < {SIGNIFICANT}): "
            + "; ".join(f"{k} in {c['hits']} of {c['scored']} scores" for k, c in columns.items())
            + ". "
            + " ".join(_precision(name, each) for name, each in n["pairs"].items()),
            "Words are found by the plain cosine. CSLS and the inverted softmax, which the figure "
            "shows too, also use the similarities of the words that the map was fitted on, and "
            "that makes the task easier.",
            verdict(
                _holds(n),
                f"precision@1 of {n['published']['precision']} ({n['published']['source']}); there "
                "between languages and among many more words, so only the kind of result compares.",
            ),
        ]
    )


def _precision(name: str, one: Numbers) -> str:
    return f"{name}: precision@1 {told(one['precision'], '.3f')}."


def _holds(n: Numbers) -> str:
    above = [name for name, one in n["pairs"].items() if _found(one)]
    if not above:
        return "Does not hold at 135 M parameters: words are found no more often than by chance."
    rest = [name for name in n["pairs"] if name not in above]
    missing = f"; not between {listed(rest)}" if rest else ""
    return (
        f"Holds in kind: held-out words are found beyond chance between {listed(above)}{missing}."
    )


def _found(one: Numbers) -> bool:
    """Whether held-out words are found more often than with permuted words."""
    return bool(one["scores"]["cosine@1"]["p"] < SIGNIFICANT)
