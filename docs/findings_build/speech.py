"""Nouns against adjectives: path, angle and turning."""

from __future__ import annotations

from typing import Any

import interp
from docs.findings_build.parts import (
    SIGNIFICANT,
    Measured,
    Numbers,
    from_row,
    side,
    table,
    told,
    verdict,
)
from docs.findings_build.sources import Sources
from interp.stats import holm

TITLE = "Nouns and adjectives"
A, B = "NOUN", "ADJ"
OPEN = "it cannot be "
VALUES = {
    "path": "path over all blocks",
    "angle": "sum of the angles, degrees",
    "turning": "angle between successive steps, degrees",
}


def measure(sources: Sources) -> Measured:
    """Both kinds of words compared over all blocks, as they are and at equal frequency."""
    found = {value: _groups(sources.results, value) for value in VALUES}
    values = {value: _one(groups, value, sources.results.tokens) for value, groups in found.items()}
    numbers = {
        "values": corrected(values),
        "words": {str(r["pos"]): int(r["n"]) for _, r in found["path"].total.iterrows()},
    }
    return Measured(numbers, {"speech": found["angle"].plot()})


def _groups(results: Any, value: str) -> Any:
    return interp.experiments.by_group(results, value, "pos", groups=[A, B])


def _one(found: Any, value: str, tokens: Any) -> dict[str, Any]:
    """Means, difference within sentences, and difference at equal frequency and position."""
    units, rows = _totals(found.units, value, tokens), found.total.set_index("pos")
    both = interp.compare(units, value, "pos", A, B, adjust=["zipf", "position"])
    row = both.frame.iloc[0]
    untrained = _totals(found.control.units, value, tokens)
    control = interp.compare(untrained, value, "pos", A, B, adjust=["zipf", "position"])
    return {
        "noun": {k: float(rows.loc[A, k]) for k in ("mean", "low", "high")},
        "adjective": {k: float(rows.loc[B, k]) for k in ("mean", "low", "high")},
        "within": from_row(row, "within_difference") | {"p": float(row["permutation_p"])},
        "adjusted": from_row(row, "adjusted_difference") | {"p": float(row["adjusted_p"])},
        "untrained": from_row(control.frame.iloc[0], "adjusted_difference"),
        "eta2": float(found.total_test["eta2"].iloc[0]),
        "shuffled_eta2": float(found.total_test["shuffled_eta2"].iloc[0]),
    }


def corrected(values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The p of every difference with Holm's correction over the values."""
    for kind in ("within", "adjusted"):
        for one, p in zip(
            values.values(), holm([v[kind]["p"] for v in values.values()]), strict=True
        ):
            one[kind]["p_holm"] = float(p)
    return values


def _totals(units: Any, value: str, tokens: Any) -> Any:
    """A row per word: the last value of the path, the sum of angles, the mean of turnings."""
    how = {"path": "last", "angle": "sum", "turning": "mean"}[value]
    keys = ["prompt", "position"]
    total = units.sort_values("layer").groupby(keys, as_index=False)[value].agg(how)
    about = units.drop_duplicates(keys)[[*keys, "pos"]].merge(tokens[[*keys, "zipf"]], on=keys)
    return about.merge(total, on=keys)


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    rows = [
        (
            VALUES[value],
            told(one["noun"], ".5g"),
            told(one["adjective"], ".5g"),
            told(one["within"], "+.3g"),
            f"{one['within']['p_holm']:.2g}",
            told(one["adjusted"], "+.3g"),
            f"{one['adjusted']['p_holm']:.2g}",
            told(one["untrained"], "+.3g"),
        )
        for value, one in n["values"].items()
    ]
    heads = ("", "nouns", "adjectives", "difference within sentences", "p")
    heads += ("at equal frequency and position", "p", "the same, untrained copy")
    return "\n\n".join(
        [
            f"{n['words'][A]} nouns and {n['words'][B]} adjectives (spaCy's tags) of the sentences "
            "with *her*; tokens of a word are joined. An interval is of its own difference alone; "
            "p is corrected for the three values (Holm). So an interval may exclude zero where p "
            "stays above the level: it then cannot be decided.",
            table(heads, rows),
            " ".join(_said(value, one) for value, one in n["values"].items()),
            verdict("Nothing to compare with.", "the question, but no figure that we know of."),
        ]
    )


def _said(value: str, one: Numbers) -> str:
    known = [_direction(value, one[kind]) for kind in ("within", "adjusted")]
    if known[0] == known[1] and known[0].startswith(OPEN):
        undecided = known[0].removeprefix(OPEN)
        return f"Neither as they stand nor at equal frequency and position can it be {undecided}."
    if known[0] == known[1]:
        also = "as they stand, and at equal frequency and position"
        return f"{known[0].capitalize()}, {also}{_learned(one)}."
    return f"As they stand, {known[0]}; at equal frequency and position, {known[1]}{_learned(one)}."


def _direction(value: str, x: Numbers) -> str:
    """Which kind of word has more, if the interval and the corrected p agree that one has."""
    more = {
        "path": "travel further",
        "angle": "turn further",
        "turning": "bend more from step to step",
    }
    less = {
        "path": "travel less far",
        "angle": "turn less",
        "turning": "bend less from step to step",
    }
    where = side(x) if x["p_holm"] < SIGNIFICANT else "open"
    return {
        "above": f"nouns {more[value]} than adjectives",
        "below": f"nouns {less[value]} than adjectives",
        "open": f"{OPEN}decided whether nouns {more[value]} than adjectives",
    }[where]


def _learned(one: Numbers) -> str:
    if side(one["untrained"]) == side(one["adjusted"]) != "open":
        return ", and so it is in the untrained copy"
    return ""
