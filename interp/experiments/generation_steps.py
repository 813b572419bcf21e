"""Measures over the steps of a generation: their drift, right against wrong answers, controls.

Knows results of `interp.generate`, and a model only where it reads the controls.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Bools, Floats, Ints
from interp.contract.columns import GENERATION_MEANINGS
from interp.contract.options import names_of
from interp.errors import BadInput
from interp.experiments.controls import model_of
from interp.experiments.tokens_or_words import TOKEN_MEANINGS, other_meanings
from interp.models.for_model import special_ids_of
from interp.models.load import load_model
from interp.models.probe import inspect
from interp.prompts.tokens import word_pattern
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding
from interp.render.lines import greys_in_words
from interp.render.tokens import percent
from interp.runs.provenance import answers_in
from interp.runs.run import run
from interp.runs.written import (
    GIVEN,
    MEASURES,
    STEP,
    ends_of,
    past_the_end,
    results_with,
    step_means,
    text_drawing,
    written_values,
)
from interp.stats.nulls import undecided
from interp.stats.resampling import clustered_bootstrap, clustered_permutation
from interp.stats.slopes import clustered_slopes
from interp.stats.table import is_special, left_out_note, require_columns

WRITTEN, SHUFFLED, RANDOM = "as written", "shuffled", "random tokens"
CORRECT, WRONG = "correct", "wrong"
UNTRAINED = "untrained copy"
MOST_TEXTS = 4  # that are drawn
COLUMNS = {
    "value": "the measure of a written token",
    "text": "'as written'; or a control after the same prompts: 'shuffled', the same tokens in "
    "random order; 'random tokens', as many of the vocabulary",
    "n": "tokens with the value",
    "texts": "texts they are of",
    "prompts": "given prompts that these continue: the units of all statistics",
    "mean": "mean over the tokens",
    "slope": "change per written token, with a level of its own for each text",
    "low": "lower end of its interval, with the given prompt as cluster",
    "high": "upper end, likewise",
    "p": "share of changes of sign of whole prompts with at least this slope, never 0",
    "p_max": "the same against the largest of all values (family-wise)",
    "difference": "slope as written minus that of the control, of the same steps",
    "difference_low": "lower end of its interval, with the given prompt as cluster",
    "difference_high": "upper end, likewise",
    "difference_p": "p of the difference, by changes of sign of whole prompts",
    "difference_p_max": "the same against the largest of all values (family-wise)",
    "x": "number of the written token, from 1, of a mean in `curves`",
    "group": "kind of text or label that the mean is of",
}
COMPARED = {
    "texts_a": "texts with the first label",
    "mean_a": "mean of their means",
    "mean_b": "that of the second label",
    "difference": "mean_a − mean_b, with _low and _high: prompts resampled",
    "within": "difference within prompts that have both labels; others among themselves",
    "hedges_g": "the difference in standard deviations of the texts",
    "p": "share of labelings with at least this difference: labels shuffled among the texts of a "
    "prompt, and whole prompts that have one label",
    "p_max": "the same against the largest of all values (family-wise)",
}


@dataclass(frozen=True, eq=False, repr=False)
class GenerationSteps(Finding):
    """Measures over the steps of a generation: the answer of `generation_steps`.

    Attributes:
        frame: a row per value and kind of text; columns as in `COLUMNS`.
        curves: mean of each value per step with its interval, per kind of text or label.
        comparison: a row per value: texts with the first label against the second; empty without.
        tokens: a row per written token, with the values of the pass that wrote it.
        texts: the first texts whole, prompts included, for the figure.
        labels: the two labels that were compared, or none.
        confidence: level of the intervals.
        notes: caveats.
    """

    name = "steps"
    question = "How do the measures of a written token change along the text?"
    columns = MappingProxyType(
        {**COLUMNS, **{f"{name} (of the comparison)": about for name, about in COMPARED.items()}}
    )
    draws_control = True

    frame: pd.DataFrame
    curves: pd.DataFrame
    comparison: pd.DataFrame
    tokens: pd.DataFrame
    texts: pd.DataFrame
    labels: tuple[str, ...] = ()
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The slope of every value with its interval, p and controls, then the labels."""
        rows = self.frame[self.frame["text"] == WRITTEN]
        head = rows.iloc[0]
        parts = [self._drift(row) for _, row in rows.iterrows()]
        compared = [self._difference(row) for _, row in self.comparison.iterrows()]
        said = f"Change per step over {head['texts']} texts of {head['prompts']} prompts: "
        said += "; ".join(parts)
        if compared:
            said += f". {' minus '.join(self.labels)}: {'; '.join(compared)}"
        return f"{said}."

    def _drift(self, row: pd.Series[Any]) -> str:
        others = self.frame[(self.frame["value"] == row["value"]) & (self.frame["text"] != WRITTEN)]
        controls = "".join(
            f", {name} {slope:+.3g}"
            for name, slope in zip(others["text"], others["slope"], strict=True)
            if np.isfinite(slope)
        )
        if not np.isfinite(row["slope"]):
            return f"{row['value']} undefined"
        tested = f", p over all values {row['p_max']:.2g}" if np.isfinite(row["p_max"]) else ""
        return f"{row['value']} {_with_interval(row)}{tested}{controls}"

    @staticmethod
    def _difference(row: pd.Series[Any]) -> str:
        return (
            f"{row['value']} {row['difference']:+.3g} [{row['difference_low']:+.3g}, "
            f"{row['difference_high']:+.3g}], p over all values {row['p_max']:.2g}"
        )

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Slopes, curves, the comparison where there is one, and the tokens."""
        compared = {} if self.comparison.empty else {"comparison": self.comparison}
        return {self.name: self.frame, **compared, "curves": self.curves, "tokens": self.tokens}

    @property
    def short(self) -> pd.DataFrame:
        """The slopes to read first."""
        names = ["value", "text", "slope", "low", "high", "p", "p_max"]
        more = [c for c in ("difference", "difference_p_max") if c in self.frame]
        return self.frame[[*names, *more]]

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """A figure per value: its mean at each step, with the controls in grey; then the texts."""
        names = self.frame["value"].unique()
        curves = {_title(v): self._drawing(v) for v in names}
        if "token" not in self.texts or self.texts[names[0]].isna().all():
            return curves
        more = " These are the first texts."
        return curves | {"The texts": text_drawing(self.texts, str(names[0]), more)}

    def _drawing(self, value: str) -> Drawing:
        lines = self._lines(value)
        greys = [name for name in lines if name in (SHUFFLED, RANDOM)]
        if isinstance(self.control, GenerationSteps):
            own = self.control._lines(value).get(WRITTEN)
            if own is not None:
                lines, greys = lines | {UNTRAINED: own}, [*greys, UNTRAINED]
        row = self.frame[(self.frame["value"] == value) & (self.frame["text"] == WRITTEN)].iloc[0]
        return Drawing(
            "lines",
            f"{_title(value)} over the steps",
            line_rows(lines),
            MEASURES[value].unit if value in MEASURES else "",
            "step (written tokens, from 1)",
            f"{row['texts']} texts of {row['prompts']} prompts. Slope per step: "
            f"{_with_interval(row)}. Bands: {percent(self.confidence)} intervals, with the given "
            "prompt as the unit, where there are three or more.",
            f"Grey: {greys_in_words(greys)}." if greys else "",
            "the line would be level, and as in the shuffled text.",
            options={"greys": tuple(greys)},
        )

    def _lines(self, value: str) -> dict[str, pd.DataFrame]:
        rows = self.curves[self.curves["value"] == value]
        return {str(name): part for name, part in rows.groupby("group", sort=False)}


def _with_interval(row: pd.Series[Any]) -> str:
    """A slope, and its interval where there is one."""
    interval = f" [{row['low']:+.3g}, {row['high']:+.3g}]" if np.isfinite(row["low"]) else ""
    return f"{row['slope']:+.3g}{interval}"


def _title(value: str) -> str:
    return MEASURES[value].title if value in MEASURES else value


def generation_steps(
    results: Any,
    controls: Any = None,
    *,
    values: str | Sequence[str] | None = None,
    labels: Sequence[Any] | None = None,
    answer: str | None = None,
    first: int | None = None,
    special: bool = False,
    after_end: bool = False,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> GenerationSteps:
    """Change of the measures of written tokens along the text, and between right and wrong answers.

    A written token stands with the pass that chose it: where its prediction settled, how far the
    stream travelled, how likely the token was and how open the choice. The drift is the slope over
    the steps, with a level of its own for each text; the given prompt is the unit of all intervals
    and tests, because texts of one prompt resemble each other. Two controls keep prompt, length and
    places and change the words: the same tokens in random order, and random tokens. What drifts in
    them as well comes from the place in the context, not from what the text says. Where the run had
    `targets=` and `against=` of its own, the controls have the same.

    Args:
        results: of a run with `--generate` (`interp.generate`) and any of next_token, settling,
            path_length, rotation.
        controls: name of the model that wrote the texts: it reads the two controls. Without it
            there are none. In Python also the model itself.
        values: measures of written tokens; all that the results have unless given. Of another
            column the last layer is taken.
        labels: one of two labels per text, in the order of `results.texts`, such as True for a
            correct answer; None leaves a text out of the comparison.
        answer: label column of the prompts with the right answer; a text that contains it, in any
            case of letters, is correct.
        first: only the first so many written tokens of each text, so that long and short answers
            are compared over the same steps.
        special: keep special tokens, such as the one that ends a text; else left out.
        after_end: keep what was written after a token with which the model ends a text, as with
            `stop=[]`. That is another text, so that a slope over both measures the seam; it is
            else left out, and a note counts it.
        confidence: level of the intervals.
        resamples: number of choices of signs, of shuffles and of bootstrap draws.
        seed: seed of these, and of the two controls.

    Raises `BadInput` for results of no generation, without any measure per token, for fewer than
    two written tokens in every text, labels that do not fit, or controls of a run whose folder does
    not hold its `targets=`; `UnknownName` for a value or an
    answer that no table has.
    """
    values = None if values is None else names_of(values)
    asked = _Asked(values, first, special, after_end, confidence, resamples, seed)
    whole = _ended(written_values(results, values), results)
    marks = _labels_of(results, whole, labels, answer)
    _rows(whole, asked)  # refused before a model reads the controls
    names = _names(whole, asked)
    found = _found(whole, asked, marks, _controls(results, controls, names, asked))
    found = found.with_columns(**_token_meanings(results, found.tokens))
    if name := model_of(results):
        found = found.with_about(model=name)
    copy = getattr(results, "control", None)
    if copy is None:
        return found
    try:
        # Of the same texts; the controls of the model are none of the copy's.
        beside = _ended(written_values(copy, values), results)
        return found.with_control(_found(beside, asked, marks, {}))
    except BadInput as error:
        return found.with_note(f"untrained copy: {error}")


def _token_meanings(results: Any, tokens: pd.DataFrame) -> dict[str, str]:
    """Meanings of the columns of the written tokens: the measures', and those of labels."""
    known: dict[str, str] = {}
    for result in results.values() if isinstance(results, Mapping) else (results,):
        own = getattr(result, "columns", {})
        known |= own if isinstance(own, Mapping) else {}
    known |= {**TOKEN_MEANINGS, **GENERATION_MEANINGS}
    kept = {name: known[name] for name in map(str, tokens) if name in known}
    return {**kept, **other_meanings(tokens, known)}


_AFTER = "\0after"  # column of `_ended`; no label has this name


def _ended(whole: pd.DataFrame, results: Any) -> pd.DataFrame:
    """The written values with a mask of those after the end of their text."""
    return whole.assign(**{_AFTER: past_the_end(whole, ends_of(results))})


@dataclass(frozen=True)
class _Asked:
    values: Sequence[str] | None
    first: int | None
    special: bool
    after_end: bool
    confidence: float
    resamples: int
    seed: int

    @property
    def levels(self) -> dict[str, Any]:
        return {"confidence": self.confidence, "resamples": self.resamples, "seed": self.seed}


def _names(whole: pd.DataFrame, asked: _Asked) -> list[str]:
    """The values that are measured."""
    return [name for name in asked.values or MEASURES if name in whole]


def _found(
    whole: pd.DataFrame, asked: _Asked, marks: Mapping[int, str], controls: Mapping[str, Any]
) -> GenerationSteps:
    names = _names(whole, asked)
    rows, notes = _rows(whole, asked)
    texts = {WRITTEN: rows}
    for kind, other in controls.items():
        texts[kind] = _beside(rows, written_values(other, names), names)
    frame = pd.DataFrame([r for n, t in texts.items() for r in _slopes(n, t, rows, names, asked)])
    frame = frame.sort_values("value", key=lambda c: c.map(names.index), kind="stable")
    compared, smallest = _compared(rows, names, marks, asked)
    return GenerationSteps(
        frame.reset_index(drop=True),
        _curves(texts, names, marks, asked.confidence),
        compared,
        rows.reset_index(drop=True),
        whole.drop(columns=_AFTER)[
            whole["prompt"].isin(sorted(whole["prompt"].unique())[:MOST_TEXTS])
        ],
        _ordered(set(marks.values())),
        asked.confidence,
        (*notes, *_few(int(frame["prompts"].max()), asked.resamples, smallest)),
    )


def _rows(whole: pd.DataFrame, asked: _Asked) -> tuple[pd.DataFrame, list[str]]:
    """The written tokens that count, and notes on those that do not."""
    if asked.first is not None and asked.first < 2:
        raise BadInput(f"first is {asked.first!r}; a slope needs 2 written tokens or more")
    rows = whole[whole[STEP] > 0]
    notes = [note] if (note := _after_note(rows, asked.after_end)) else []
    if not asked.after_end:
        rows = rows[~rows[_AFTER]]
    rows = rows.drop(columns=_AFTER)
    left_out = is_special(rows, asked.special)
    if note := left_out_note(rows, left_out):
        notes.append(note)
    rows = rows[~left_out]
    if asked.first is not None:
        rows = rows[rows[STEP] <= asked.first]
    if rows.empty or int(rows.groupby("prompt").size().max()) < 2:
        raise BadInput(
            "no text has two written tokens that count, and a slope needs them: write more "
            "(max_new_tokens=, --generate), or keep special tokens (special=True, --special)"
        )
    return rows, notes


def _after_note(rows: pd.DataFrame, kept: bool) -> str:
    """How much was written after the end of a text, and what becomes of it."""
    after = rows[rows[_AFTER]]
    if after.empty:
        return ""
    told = (
        f"{after['prompt'].nunique()} of {rows['prompt'].nunique()} texts go on after the token "
        f"that ends them; {len(after)} of {len(rows)} written tokens come after it"
    )
    if kept:
        return f"{told} and count here: a slope over both texts also measures the seam"
    return f"{told} and are left out (--after-end, or after_end=True, keeps them)"


def _few(prompts: int, resamples: int, smallest: float) -> list[str]:
    """Notes where no choice of signs or labels could have reached a small p."""
    if prompts < 2:
        return [
            "one prompt was continued: there are no intervals and no tests, whose unit is the "
            "given prompt"
        ]
    signs = undecided(max(2.0 ** (1 - prompts), 1 / (1 + resamples)))
    return list(dict.fromkeys([*signs, *undecided(smallest)]))


# ---- drift ---------------------------------------------------------------------------------------


def _slopes(
    kind: str, rows: pd.DataFrame, written: pd.DataFrame, names: Sequence[str], asked: _Asked
) -> list[dict[str, Any]]:
    """A row of the table per value, of one kind of text."""
    place = (rows[STEP], rows["prompt"], rows[GIVEN])
    numbers = rows[names].to_numpy(np.float64)
    found = clustered_slopes(numbers, *place, **asked.levels)
    differences = None
    if kind != WRITTEN:
        apart = written[names].to_numpy(np.float64) - numbers
        differences = clustered_slopes(apart, *place, **asked.levels)
    out = []
    for i, name in enumerate(names):
        known = np.isfinite(numbers[:, i])
        row: dict[str, Any] = {"value": name, "text": kind, "n": int(known.sum())}
        row |= {"texts": rows["prompt"][known].nunique(), "prompts": int(found.clusters[i])}
        row["mean"] = numbers[known, i].mean() if known.any() else np.nan
        row |= {c: getattr(found, c)[i] for c in ("slope", "low", "high", "p", "p_max")}
        if differences is not None:
            row["difference"] = differences.slope[i]
            names_of = ("low", "high", "p", "p_max")
            row |= {f"difference_{c}": getattr(differences, c)[i] for c in names_of}
        out.append(row)
    return out


def _curves(
    texts: Mapping[str, pd.DataFrame],
    names: Sequence[str],
    marks: Mapping[int, str],
    confidence: float,
) -> pd.DataFrame:
    """Means per step: as written, or by label; then the controls."""
    parts = []
    for kind, rows in texts.items():
        parts.append(step_means(rows, names, confidence=confidence).assign(group=kind))
        if kind == WRITTEN and marks:
            labelled = rows.assign(_label=rows["prompt"].map(marks)).dropna(subset="_label")
            parts.append(step_means(labelled, names, "_label", confidence))
    return pd.concat(parts, ignore_index=True)


# ---- controls ------------------------------------------------------------------------------------


def _controls(results: Any, model: Any, names: Sequence[str], asked: _Asked) -> dict[str, Any]:
    """Results of the analyses with these values over both control texts; none without a model."""
    if model is None:
        return {}
    tokens = _tokens_of(results)
    tokens = tokens if asked.after_end else _ended(tokens, results)
    answers = answers_in(results)
    bridge = load_model(model)
    anatomy = inspect(bridge)
    written_by = model_of(results)
    if written_by and anatomy.model != written_by:
        raise BadInput(
            f"the texts were written by {written_by}, and controls= is {anatomy.model}: the "
            "controls have to be read by the model that wrote the texts"
        )
    size = anatomy.d_vocab
    if bridge.tokenizer is not None:
        size = min(size or len(bridge.tokenizer), len(bridge.tokenizer))
    ordinary = np.setdiff1d(np.arange(size), special_ids_of(bridge))
    analyses = [results[name].analysis for name in results_with(results, names)]
    texts = [rows for _, rows in tokens.groupby("prompt", sort=True)]
    given = [int(rows[GIVEN].iloc[0]) for rows in texts]
    steps = [rows[STEP].tolist() for rows in texts]
    options: dict[str, Any] = {"labels": {GIVEN: given}, "token_labels": {STEP: steps}}
    options |= answers  # the controls are of the same targets as the texts
    return {
        kind: run(
            bridge,
            control_texts(texts, kind, ordinary, asked.seed),
            analyses,
            progress=False,
            **options,
        )
        for kind in (SHUFFLED, RANDOM)
    }


def _tokens_of(results: Any) -> pd.DataFrame:
    """The token table of a generation in the order of its texts; raises `BadInput` for another."""
    tokens: pd.DataFrame | None = getattr(results, "tokens", None)
    if tokens is None:
        raise BadInput(
            "controls= needs the results of interp.generate (or its folder), whose token ids it "
            "shuffles; tables alone have no analyses to repeat"
        )
    return tokens.sort_values(["prompt", "position"], ignore_index=True)


def control_texts(
    texts: Sequence[pd.DataFrame], kind: str, ordinary: Ints, seed: int
) -> list[Ints]:
    """The texts with their written tokens in random order, or random ones: ids `[length]` each.

    Special tokens, such as the one that ends a text, keep their places, and so does all that was
    written after the end of a text.

    Args:
        texts: the rows of each in the token table.
        kind: "shuffled" or "random tokens".
        ordinary: ids to draw from.
        seed: of the draws; those of a text depend on its number only.
    """
    out = []
    for number, rows in enumerate(texts):
        ids = rows["token_id"].to_numpy(np.int64).copy()
        free = (rows[STEP] > 0).to_numpy() & ~rows["special"].to_numpy(bool)
        if _AFTER in rows:
            free &= ~rows[_AFTER].to_numpy(bool)
        draw = np.random.default_rng([seed, number, int(kind == RANDOM)])
        chosen = draw.permutation(ids[free])
        ids[free] = chosen if kind == SHUFFLED else draw.choice(ordinary, int(free.sum()))
        out.append(ids)
    return out


def _beside(rows: pd.DataFrame, other: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The rows of a control, one for each row as written."""
    own = other.set_index(["prompt", "position"])[list(names)]
    places = pd.MultiIndex.from_frame(rows[["prompt", "position"]])
    return rows.drop(columns=list(names)).assign(
        **own.reindex(places).reset_index(drop=True).set_axis(rows.index)
    )


# ---- labels --------------------------------------------------------------------------------------


def _labels_of(
    results: Any, whole: pd.DataFrame, labels: Sequence[Any] | None, answer: str | None
) -> dict[int, str]:
    """The label of each text by its prompt number; empty without labels."""
    if labels is not None and answer is not None:
        raise BadInput("labels= and answer= are two ways to the same labels; pass one of them")
    if answer is not None:
        return _answered(results, whole, answer)
    if labels is None:
        return {}
    texts = sorted(whole["prompt"].unique().tolist())
    if len(labels) != len(texts):
        raise BadInput(f"labels= has {len(labels)} values and there are {len(texts)} texts")
    named = {True: CORRECT, False: WRONG}
    known = [None if x is None or x != x else x for x in labels]
    marks = [named[bool(x)] if isinstance(x, bool | np.bool_) else x for x in known]
    return _two({n: str(x) for n, x in zip(texts, marks, strict=True) if x is not None})


def _answered(results: Any, whole: pd.DataFrame, answer: str) -> dict[int, str]:
    """Texts that contain the answer of their prompt are correct, the others wrong."""
    require_columns(whole, [answer], "label")
    written = results.texts["text"]
    answers = whole.dropna(subset=answer).groupby("prompt")[answer].first()
    marks = {}
    for number, right in answers.items():
        text = f"{right:g}" if isinstance(right, float) else str(right)
        pattern = word_pattern(text, case_sensitive=False)
        found = pattern.search(str(written.iloc[int(str(number))])) is not None
        marks[int(str(number))] = CORRECT if found else WRONG
    return _two(marks)


def _two(marks: dict[int, str]) -> dict[int, str]:
    kinds = sorted(set(marks.values()))
    if len(kinds) != 2:
        raise BadInput(
            f"the texts have {len(kinds)} labels ({', '.join(kinds) or 'none'}), and two are "
            "compared; without labels= and answer= only the drift is measured"
        )
    return marks


def _ordered(labels: Iterable[str]) -> tuple[str, ...]:
    """Correct before wrong, others by their names."""
    return tuple(sorted(labels, key=lambda name: (name != CORRECT, name)))


def _compared(
    rows: pd.DataFrame, names: Sequence[str], marks: Mapping[int, str], asked: _Asked
) -> tuple[pd.DataFrame, float]:
    """A row per value: texts of the first label against those of the second; the smallest p."""
    if not marks:
        return pd.DataFrame(), 0.0
    means = rows.groupby("prompt")[list(names)].mean()
    means = means[means.index.isin(marks)]
    given = rows.groupby("prompt")[GIVEN].first().reindex(means.index).to_numpy()
    kinds = means.index.map(marks)
    a, b = _ordered(set(marks.values()))
    is_a: Bools = np.asarray(kinds == a)
    if is_a.all() or not is_a.any():
        raise BadInput(f"only texts of one label ({kinds[0]}) have written tokens that count")
    numbers = means.to_numpy(np.float64)
    fits = clustered_bootstrap(numbers, is_a, given, **asked.levels)
    options = {"resamples": asked.resamples, "seed": asked.seed}
    test = clustered_permutation(numbers, is_a, given, **options)
    frame = pd.DataFrame({"value": list(names), "a": a, "b": b})
    counts: Floats = np.isfinite(numbers)
    frame = frame.assign(texts_a=counts[is_a].sum(0), texts_b=counts[~is_a].sum(0))
    frame["prompts"] = len(np.unique(given))
    for name in ("mean_a", "mean_b"):
        frame[name] = fits[name].estimate
    for name in ("difference", "within", "hedges_g"):
        fit = fits[name]
        frame = frame.assign(**{name: fit.estimate, f"{name}_low": fit.low})
        frame[f"{name}_high"] = fit.high
    return frame.assign(p=test.p, p_max=test.p_max), test.smallest_p_max
