"""Nouns against adjectives: path, angle and turning."""

from __future__ import annotations

from typing import Any

import interp
from docs.findings_build.parts import Measured, Numbers, from_row, side, table, told, verdict
from docs.findings_build.sources import Sources

TITLE = "Nouns and adjectives"
A, B = "NOUN", "ADJ"
VALUES = {
    "path": "path over all blocks",
    "angle": "sum of the angles, degrees",
    "turning": "angle between successive steps, degrees",
}


def measure(sources: Sources) -> Measured:
    """Both kinds of words compared over all blocks, as they are and at equal frequency."""
    found = {value: _groups(sources.results, value) for value in VALUES}
    numbers = {
        "values": {value: _one(groups, value) for value, groups in found.items()},
        "words": {str(r["pos"]): int(r["n"]) for _, r in found["path"].total.iterrows()},
    }
    return Measured(numbers, {"speech": found["angle"].plot()})


def _groups(results: Any, value: str) -> Any:
    return interp.experiments.by_group(results, value, "pos", groups=[A, B])


def _one(found: Any, value: str) -> dict[str, Any]:
    """Means, difference within sentences, and difference at equal frequency and position."""
    units, rows = _totals(found.units, value), found.total.set_index("pos")
    both = interp.compare(units, value, "pos", A, B, adjust=["zipf", "position"])
    row = both.frame.iloc[0]
    untrained = _totals(found.control.units, value)
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


def _totals(units: Any, value: str) -> Any:
    """A row per word: the last value of the path, the sum of angles, the mean of turnings."""
    how = {"path": "last", "angle": "sum", "turning": "mean"}[value]
    keys = ["prompt", "position"]
    total = units.sort_values("layer").groupby(keys, as_index=False)[value].agg(how)
    about = units.drop_duplicates(keys)[[*keys, "pos", "zipf"]]
    return about.merge(total, on=keys)


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    rows = [
        (
            VALUES[value],
            told(one["noun"], ".5g"),
            told(one["adjective"], ".5g"),
            told(one["within"], "+.3g"),
            told(one["adjusted"], "+.3g"),
            f"{one['adjusted']['p']:.2g}",
            told(one["untrained"], "+.3g"),
        )
        for value, one in n["values"].items()
    ]
    heads = ("", "nouns", "adjectives", "difference within sentences")
    heads += ("at equal frequency and position", "p", "the same, untrained copy")
    return "\n\n".join(
        [
            f"{n['words'][A]} nouns and {n['words'][B]} adjectives (spaCy's tags) of the sentences "
            "with *her*; tokens of a word are joined.",
            table(heads, rows),
            " ".join(_said(value, one) for value, one in n["values"].items()),
            verdict("Nothing to compare with.", "the question, but no figure that we know of."),
        ]
    )


def _said(value: str, one: Numbers) -> str:
    more = {"path": "travel further", "angle": "turn further", "turning": "take sharper turns"}
    less = {"path": "travel less far", "angle": "turn less", "turning": "go on more straightly"}
    nouns = {
        "above": f"nouns {more[value]} than adjectives",
        "below": f"nouns {less[value]} than adjectives",
        "open": f"it cannot be decided whether nouns {more[value]} than adjectives",
    }[side(one["adjusted"])]
    also = side(one["untrained"]) == side(one["adjusted"]) != "open"
    learned = "; so they do in the untrained copy, so it was not learned" if also else ""
    return f"At equal frequency and position, {nouns}{learned}."
