"""Contextual drift: cosines of one word across contexts, within a sense and between senses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Floats
from interp.errors import BadInput, unknown
from interp.experiments.controls import with_untrained_copy
from interp.experiments.token_vectors import collect_states, prompts_for
from interp.measures.matrices import unit_rows
from interp.models.load import load_model
from interp.prompts.labels import target_word
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding
from interp.stats.classical import holm
from interp.stats.nulls import Null, orders, undecided

COLUMNS = {
    "layer": "state; 0 enters the first block",
    "within": "mean cosine of occurrences of one sense, from different prompts",
    "between": "mean cosine of occurrences of different senses",
    "difference": "within − between; 0 where the context has not told the senses apart",
    "random": "mean cosine of occurrences with random other tokens: how narrow the space is",
    "null_mean": "mean difference when senses are shuffled among prompts",
    "null_sd": "its standard deviation then",
    "p": "share of shuffles with at least this difference, never 0",
    "p_max": "the same against the largest standardised difference of all layers in each shuffle",
    "p_holm": "p, corrected for the number of layers (Holm)",
}


ALPHA = 0.05
LINES = {
    "within": "same sense",
    "between": "different senses",
    "random": "with random other tokens",
}


@dataclass(frozen=True, eq=False, repr=False)
class Drift(Finding):
    """Drift of a word's states apart with its senses: the answer of `contextual_drift`.

    Attributes:
        frame: one row per state; `COLUMNS` gives the meaning of the columns.
        word: the word.
        senses: number of occurrences of each sense.
        occurrences: one row each: `prompt`, `position`, `sense`.
        cosines: `[state, n, n]` between the occurrences.
        notes: occurrences that were left out, and why.
        model: name of the model.
    """

    name = "drift"
    question = "Where does the context tell the senses of the word apart?"
    columns = COLUMNS

    frame: pd.DataFrame
    word: str
    senses: dict[str, int]
    occurrences: pd.DataFrame
    cosines: Floats
    notes: tuple[str, ...]
    model: str

    @property
    def sentence(self) -> str:
        """The largest difference between same and different senses, with its p, and the verdict."""
        counts = " and ".join(f"{n} times as {sense}" for sense, n in self.senses.items())
        known = self.frame[self.frame["difference"].notna()]
        top = known.iloc[int(known["difference"].to_numpy().argmax())]
        p = f"p = {top['p_max']:.2g}" if np.isfinite(top["p_max"]) else "not tested: nothing varies"
        return (
            f"{self.word!r} in {self.model}, {counts}: the cosine within senses minus that between "
            f"senses is largest at state {int(top['layer'])}, {top['difference']:+.3g} "
            f"({top['within']:.3g} against {top['between']:.3g}; shuffled senses: "
            f"{top['null_mean']:+.2g} on average; {p} over all states). {self._verdict()}"
        )

    def _verdict(self) -> str:
        """The states at which senses differ, or why that cannot be decided."""
        if few := [note for note in self.notes if note.startswith("cannot be decided")]:
            return f"Whether senses differ {few[0]}."
        apart = self.frame.loc[self.frame["p_max"] < ALPHA, "layer"].astype(str).tolist()
        found = f"state{'s' * (len(apart) > 1)} {', '.join(apart)}" if apart else "no state"
        return (
            f"Same and different senses differ at {found} (p < {ALPHA}, senses shuffled among "
            "prompts, corrected for the number of states)."
        )

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Cosines of the occurrences per state: within a sense, between senses, at random."""
        counts = ", ".join(f"{sense}: {n}" for sense, n in self.senses.items())
        caption = f"Occurrences: {counts}. {self._verdict()}"
        lines = {
            name: pd.DataFrame({"x": self.frame["layer"], "mean": self.frame[column]})
            for column, name in LINES.items()
        }
        drawing = Drawing(
            "lines",
            f"{self.word!r} in context · {self.model}",
            line_rows(lines),
            "mean cosine",
            "state (0 enters the first block)",
            caption,
            "Grey: occurrences with random other tokens of the same prompts.",
            "the cosines within a sense and between senses would agree.",
            options={"greys": (LINES["random"],)},
        )
        return {"Cosines": drawing}


def contextual_drift(
    model: Any,
    prompts: Any,
    word: str,
    *,
    sense: str = "sense",
    labels: Mapping[str, Any] | None = None,
    case_sensitive: bool = False,
    prepend_bos: bool | None = None,
    resamples: int = 1000,
    seed: int = 0,
    control: str | None = None,
) -> Drift:
    """Cosine between occurrences of a word within and between its senses, at every state.

    An occurrence is the last token of the word. Pairs are from different prompts. The control
    shuffles the senses among prompts. In a narrow space every cosine is high: `random` is the
    cosine of occurrences with as many random tokens of the same prompts. If the senses come with
    contexts of different lengths, learned positions alone separate them at state 0.

    Args:
        model: as for `load_model`.
        prompts: as for `run`, with a label column `sense`, per token or per prompt.
        word: the word to follow.
        sense: label column of the prompts with the sense of the word; occurrences without a value
            are left out and counted.
        labels: labels per prompt, as for `run`.
        case_sensitive: tell "Bank" from "bank".
        prepend_bos: the model's own policy unless given.
        resamples: number of shuffles.
        seed: seed of the shuffles and of the draw of random tokens.
        control: repeat with an untrained copy of the model: random-init.

    Raises `UnknownName` for another column, and `BadInput` if the word does not occur or has fewer
    than two senses with two prompts each.
    """
    bridge = load_model(model)
    ready = prompts_for(bridge, prompts, labels, prepend_bos)
    if sense not in ready.labels:
        raise unknown("label", sense, ready.labels)
    marked = ready.label(target_word(word, name="_place", case_sensitive=case_sensitive, seed=seed))
    index = marked.index()
    massive = int((index["special"] & (index["_place"] == "target")).sum())
    states = collect_states(
        bridge, marked, lambda t: t["_place"].isin(["target", "random"]) & ~t["special"]
    )
    table = states.tokens
    labelled = (table["_place"] == "target") & table[sense].notna()
    lost = int((table["_place"] == "target").sum() - labelled.sum())
    notes = [f"{lost} occurrences of {word!r} have no {sense}"] if lost else []
    if massive:
        notes.append(f"{massive} occurrences are first tokens with a massive norm and left out")
    found = table[labelled]
    senses = _senses(found, sense, word)
    values = states.values[:, labelled.to_numpy()]
    others = states.values[:, (table["_place"] == "random").to_numpy()]
    cosines = np.stack([unit_rows(x) @ unit_rows(x).T for x in values])
    frame = drift_table(cosines, found[sense], found["prompt"], resamples=resamples, seed=seed)
    random = [_mean_cosine(x, y) for x, y in zip(values, others, strict=True)]
    frame.insert(4, "random", random)
    notes += undecided(frame.attrs["smallest_p_max"])
    occurrences = found[["prompt", "position", sense]].reset_index(drop=True)
    name = str(getattr(bridge.cfg, "model_name", type(bridge).__name__))
    drift = Drift(frame, word, senses, occurrences, cosines, tuple(notes), name)
    asked: dict[str, Any] = {"sense": sense, "case_sensitive": case_sensitive}
    # The copy reads the same tokens.
    asked |= {"prompts": ready, "word": word, "resamples": resamples, "seed": seed}
    return with_untrained_copy(drift, control, bridge, partial(contextual_drift, **asked))


def drift_table(
    cosines: Any, senses: Any, prompts: Any, *, resamples: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Within and between senses with a permutation control, one row per layer.

    `cosines [layer, n, n]` between occurrences, `senses [n]` and `prompts [n]`. Pairs of one
    prompt do not count. Shuffles move the senses of whole prompts. `p_max` compares differences
    over their null standard deviation, since layers differ in spread. All p are one-sided: of a
    sense being closer to itself than to others. `.attrs["smallest_p_max"]` is about the smallest
    `p_max` that any shuffle could have got.
    """
    cosine = np.asarray(cosines, np.float64)
    codes = np.unique(np.asarray(senses).astype(str), return_inverse=True)[1]
    prompt = np.unique(np.asarray(prompts), return_inverse=True)[1]
    apart = prompt[:, None] != prompt[None, :]

    def means(code: Any) -> tuple[Floats, Floats]:
        same = code[:, None] == code[None, :]
        return tuple(_masked(cosine, apart & part) for part in (same, ~same))  # type: ignore[return-value]

    within, between = means(codes)
    shuffles = orders(len(codes), resamples, seed, prompt.tolist())
    draws = np.stack([np.subtract(*means(codes[order])) for order in shuffles])
    null = Null(within - between, draws)
    # At a state where all occurrences are one vector, nothing varies and nothing is tested.
    spread = np.where(null.sd > 1e-9, null.sd, np.nan)
    frame = pd.DataFrame(
        {
            "layer": np.arange(len(cosine)),
            "within": within,
            "between": between,
            "difference": within - between,
            "null_mean": null.mean,
            "null_sd": null.sd,
            "p": np.where(np.isnan(spread), np.nan, null.p),
        }
    )
    centre = null.mean
    standard = Null((null.value - centre) / spread, (draws - centre) / spread)
    some = bool(np.isfinite(spread).any())
    frame["p_max"] = standard.p_max if some else np.nan
    frame.attrs["smallest_p_max"] = standard.smallest_p_max if some else np.nan
    frame["p_holm"] = holm(frame["p"].to_numpy(np.float64))
    return frame


def _masked(cosine: Floats, keep: Any) -> Floats:
    """Mean over the chosen pairs of each layer: `[layer, n, n], [n, n] -> [layer]`."""
    count = int(keep.sum())
    if not count:
        return np.full(len(cosine), np.nan)
    return np.asarray((cosine.reshape(len(cosine), -1) @ keep.ravel()) / count, np.float64)


def _senses(found: pd.DataFrame, sense: str, word: str) -> dict[str, int]:
    counts = found.groupby(sense)["prompt"].nunique()
    good = counts[counts >= 2]
    if len(good) < 2 or len(good) < len(counts):
        seen = ", ".join(f"{name} in {n} prompts" for name, n in counts.items()) or "none"
        raise BadInput(
            f"{word!r} needs two or more values of {sense!r} with two prompts each, seen: {seen}"
        )
    return {str(name): int(n) for name, n in found[sense].value_counts(sort=False).items()}


def _mean_cosine(x: Floats, y: Floats) -> float:
    return float((unit_rows(x) @ unit_rows(y).T).mean()) if len(y) else float("nan")
