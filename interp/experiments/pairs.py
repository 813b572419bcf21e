"""Pairs of prompts: how far two streams are apart, what differs, and what a patch brings back.

The clean and the corrupted prompt of a pair differ in few tokens. Their streams are compared state
by state and token by token, every analysis is subtracted, and the clean state of each token is put
into the corrupted run: a distance says that two states differ, a patch whether the model uses the
difference. The pair is the unit of every statistic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Ints
from interp.contract.analysis import Analysis
from interp.contract.columns import STATE, refuse_taken
from interp.contract.options import check_numbers, check_options
from interp.contract.registry import resolve
from interp.contract.settings import configured
from interp.errors import BadInput, Unsupported, unknown
from interp.experiments.controls import with_untrained_copy
from interp.experiments.pair_corpus.run import SUMMARY, summarised
from interp.experiments.pair_finding import Pairs, in_words
from interp.experiments.pair_tables import (
    STEPS,
    both_sides,
    chosen_rows,
    matrix,
    onsets,
    range_of,
    read_parts,
    some_asked,
)
from interp.experiments.patching import (
    METRICS,
    WEAK,
    agreement,
    by_part,
    metric_of,
    patch_pairs,
    weak_pairs,
)
from interp.experiments.steering import Layers, layers_of, one_stack
from interp.models.load import load_model
from interp.models.untrained import check_control
from interp.prompts.pairs import ANSWER, WRONG, PromptPairs, RawPairs, read_pairs
from interp.render.tokens import percent
from interp.runs.pairs import (
    MEASURES,
    UNRELATED,
    PairPasses,
    differences,
    distances,
    pairs_of,
    parting,
    taken_labels,
    unrelated,
)
from interp.runs.results import Results
from interp.runs.run import DEFAULT, Wanted
from interp.stats.paired import FEWEST_PAIRS, bounded_band, paired_profile
from interp.stats.resampling import check_resampling

ALL = "all"
STREAMED: dict[str, Any] = {
    "out": None, "by": (), "sample": 20, "shard_pairs": None, "workers": 1, "threads": 1,
    "resume": False, "overwrite": False,
}  # fmt: skip
"""Options of a summary, as they are where nobody names them."""


def pairs(
    model: Any,
    pairs: Any,
    analyses: Wanted = DEFAULT,
    *,
    answer: Any = None,
    wrong: Any = None,
    labels: Mapping[str, Sequence[Any]] | None = None,
    align: str | None = None,
    spans: Sequence[Any] | None = None,
    read: str | Sequence[str] | None = None,
    special: bool = False,
    threshold: float | None = None,
    patch: bool | None = None,
    patch_states: Layers = "all",
    settings: Mapping[str, Any] | None = None,
    controls: int = 1,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    control: str | None = None,
    prepend_bos: bool | None = None,
    max_tokens: int = 2048,
    keep: str = ALL,
    out: str | Path | None = None,
    by: Sequence[str] = (),
    sample: int = 20,
    shard_pairs: int | None = None,
    workers: int = 1,
    threads: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    model_options: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Pairs:
    """Compares pairs of prompts: clean and corrupted, or base and contrast.

    Both sides are run, and every aligned token is compared at every state: angle and distance of
    the two streams, where they part and meet again, and the difference of every column of every
    analysis. Then one state of the clean run at a time is put into the corrupted run (activation
    patching), which measures whether the prediction depends on it. Controls: pairs of prompts that
    have nothing to do with each other, patches from them, and a repeated clean run.

    With `keep="summary"` pairs in any number are measured in bounded memory: in shards, which
    survive an interruption, and of which the statistics over pairs remain; see docs/pairs.md.

    Args:
        model: a bridge, or anything `load_model` takes.
        pairs: list of (clean, corrupted), each a text or token ids, or mappings; a table; or a file
            (.csv, .jsonl, .parquet) with the columns clean and corrupted, or base and contrast;
            see `interp.prompts.read_pairs`.
        analyses: names, classes or instances; none for distances and patches only.
        answer, wrong: the right and the wrong answer to the clean prompt, one token or one per
            pair; also from columns of these names. With both, patching measures their logit
            difference; with the first, its log-probability; without, the KL divergence from the
            clean prediction. Analyses measure the answer in place of the next token.
        labels: columns per pair.
        align: "ends" aligns the tokens that are equal at both ends where the two sides differ in
            length, which is else refused.
        spans: per pair the parts that correspond; see `interp.prompts.aligned_by_spans`.
        read: the aligned tokens that means and tests are about: "all", or parts of "before",
            "changed", "after" and "last"; by default all but those before the first difference,
            which are the same in a causal model.
        special: also read special tokens, such as BOS.
        threshold: relative distance up to which two streams count as the same; by default what is
            rounding in this model.
        patch: whether states are patched; by default they are, but not with `keep="summary"`, which
            takes no patches.
        patch_states: numbers of the states to patch, or "all".
        settings: parameters of analyses by name, as for `run`.
        controls: number of unrelated pairs that each pair is compared with.
        confidence: of the intervals; tests have the error 1 − confidence.
        resamples: sign flips; with few pairs all of them are taken.
        seed: of unrelated pairs and sign flips.
        control: "random-init" also compares them in an untrained copy of the model.
        prepend_bos: the model's own policy unless given.
        max_tokens: budget of a pass.
        keep: "all": every pair and token, in memory; "summary": what is known over pairs.
        out: with a summary, the folder to write: the shards, and the finding in `finding`.
        by: with a summary, columns of the source that make groups of pairs.
        sample: with a summary, number of random pairs whose rows are kept for tables and figures.
        shard_pairs: with a summary, pairs per shard; 5000 unless given.
        workers: with a summary, processes of this machine.
        threads: with a summary, of the arithmetic in each worker.
        resume: continue the run in `out`; refused if its settings, model or data differ.
        overwrite: replace the run in `out`.
        model_options: for `load_model`, as for `run`.
        progress: show bars.

    Patching takes a pass per state and pair, in which every row has another token patched.

    Raises: `BadInput`, `UnknownName`, `Unsupported` before the first pass: for pairs of different
    length that nothing aligns, an answer of several tokens, spans out of range, a model with
    several stacks; `InterpError` where the model yields NaN. Nothing stays attached.
    """
    check_numbers(
        controls=controls, confidence=confidence, resamples=resamples, seed=seed,
        max_tokens=max_tokens, sample=sample, workers=workers, threads=threads,
    )  # fmt: skip
    check_options(
        labels=labels, spans=spans, read=read, special=special, threshold=threshold, patch=patch,
        settings=settings, prepend_bos=prepend_bos, model_options=model_options, by=by,
        shard_pairs=shard_pairs, resume=resume, overwrite=overwrite,
    )  # fmt: skip
    _check(controls, confidence, resamples, threshold)
    chosen = configured(resolve(analyses), settings) if some_asked(analyses) else {}
    measured: dict[str, Any] = {
        "align": align, "read": read, "special": special, "threshold": threshold,
        "controls": controls, "prepend_bos": prepend_bos,
    }  # fmt: skip
    levels: dict[str, Any] = {"confidence": confidence, "resamples": resamples, "seed": seed}
    options: dict[str, Any] = {"max_tokens": max_tokens, "progress": progress}
    streaming: dict[str, Any] = {
        "out": out, "by": by, "sample": sample, "shard_pairs": shard_pairs, "workers": workers,
        "threads": threads, "resume": resume, "overwrite": overwrite,
    }  # fmt: skip
    if keep != ALL:
        patching = patch or patch_states != "all"
        _refuse_whole(keep, labels=labels, spans=spans, patch=patching)
        given = {n: x for n, x in ((ANSWER, answer), (WRONG, wrong)) if x is not None}
        return summarised(
            model, pairs, chosen, measured=measured | levels, given=given, control=control,
            loading=dict(model_options or {}), **options, **streaming,
        )  # fmt: skip
    _refuse_streaming(streaming)
    raw = read_pairs(pairs, labels=labels, answer=answer, wrong=wrong, spans=spans)
    taken_labels(list(raw.fields))
    refuse_taken([*raw.fields, "part"], chosen)
    model = load_model(model, **(model_options or {}))
    one_stack(model, "pairs")
    if control is not None:
        check_control(control, model)
    states = None if patch is False else patch_states
    how: dict[str, Any] = {"patched": states, **measured, "levels": levels, "options": options}
    found = _compared(model, raw, chosen, **how)
    return with_untrained_copy(
        found, control, model, lambda copy: _compared(copy, raw, chosen, **how)
    )


def _compared(
    model: Any,
    raw: RawPairs,
    chosen: Mapping[str, Analysis],
    *,
    patched: Layers | None,
    align: str | None,
    read: str | Sequence[str] | None,
    special: bool,
    threshold: float | None,
    controls: int,
    prepend_bos: bool | None,
    levels: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Pairs:
    """Pairs in memory compared in one model; `patched` are the states to patch, None for none."""
    anatomy, stack = one_stack(model, "pairs")
    states = [] if patched is None else layers_of(patched, stack)
    if patched is not None and not anatomy.has_logits:
        raise Unsupported(f"{anatomy.model} gives no logits to patch for; pass patch=False")
    if chosen:
        anatomy.wire(list(chosen.values()))  # what cannot be measured is refused before a pass
    ready = pairs_of(model, anatomy, raw, align=align, prepend_bos=prepend_bos)
    tokens = ready.index()
    wanted, told = read_parts(read, anatomy.causal)
    mask = tokens["part"].isin(wanted) & (special | ~tokens["special"])
    _refuse_unread(mask, told)
    same = max(anatomy.tolerance, 1e-6) if threshold is None else threshold
    partners = unrelated(ready, controls, levels["seed"])
    passes = PairPasses.of(model, anatomy, ready, options["max_tokens"])
    apart = distances(model, stack, passes, partners, progress=options["progress"])
    clean, corrupted = both_sides(model, ready, chosen, options)
    found = Pairs(
        frame=_by_state(apart, tokens, mask, levels),
        tokens=tokens,
        distances=apart,
        parting=parting(apart, same),
        facts={
            "metric": metric_of(ready), "read": told, "threshold": same,
            "confidence": levels["confidence"], "model": anatomy.model,
            "metric_meaning": METRICS[metric_of(ready)],
        },
        clean=clean,
        corrupted=corrupted,
        notes=(*ready.notes, *_control_notes(ready, partners, patched=patched is not None)),
    )  # fmt: skip
    if clean is not None and corrupted is not None:
        found = _subtracted(found, mask, levels)
    if patched is not None:
        table = patch_pairs(model, stack, ready, partners, states=states, **options)
        found = _with_patches(found, table, same, levels)
    return found.with_about(model=anatomy.model, source=raw.source, **_origin(clean))


def _refuse_whole(keep: str, **given: Any) -> None:
    """Raises for another `keep`, and for options that need all pairs in memory."""
    if keep != SUMMARY:
        raise unknown("value of keep", keep, (ALL, SUMMARY))
    for name in ("labels", "spans"):
        if given[name] is not None:
            raise BadInput(
                f"{name}= is a list with an entry per pair; with keep='summary' pairs are "
                f"streamed, so that it has to be a column of the source"
                + (" (by=[…] names those that make groups)" if name == "labels" else " ('spans')")
            )
    if given["patch"]:
        raise BadInput(
            "patch=, patch_states=: keep='summary' takes no patches, which need a pass per pair "
            "and state; patch a part of the pairs with keep='all'"
        )


def _refuse_streaming(given: Mapping[str, Any]) -> None:
    """Raises `BadInput` for options of a summary without one."""
    names = [n for n, x in given.items() if x != STREAMED[n] and not (n == "by" and not len(x))]
    if names:
        raise BadInput(f"{', '.join(f'{n}=' for n in names)}: only with keep='summary'")


def _check(controls: int, confidence: float, resamples: int, threshold: float | None) -> None:
    check_resampling(confidence, resamples)
    if controls < 0:
        raise BadInput(f"controls={controls}: a number of unrelated pairs, 0 or more")
    if threshold is not None and not threshold >= 0:
        raise BadInput(f"threshold={threshold}: a relative distance, 0 or more")


def _refuse_unread(mask: pd.Series[bool], told: str) -> None:
    if not bool(mask.any()):
        raise BadInput(
            f"no pair has an ordinary token to read ({told}); choose other parts by read=, or pass "
            "special=True"
        )


def _control_notes(ready: PromptPairs, partners: Ints, *, patched: bool) -> list[str]:
    notes = []
    if len(ready) < FEWEST_PAIRS:
        notes.append(
            f"{len(ready)} pair{'s' * (len(ready) > 1)}: no interval can be given for fewer than "
            f"{FEWEST_PAIRS}; all means are of these pairs only."
        )
    alone = int((partners < 0).all(axis=1).sum()) if partners.shape[1] else 0
    if alone:
        notes.append(
            f"{alone} of {len(partners)} pairs found no unrelated pair of their length to be "
            "compared with; their controls are missing."
        )
    if patched and ready.answer is not None and len(ready) > 1 and len(set(ready.answer)) == 1:
        notes.append(
            "All pairs have the same answer, so that a patch from an unrelated pair brings it as "
            "well; with other answers in some pairs it is a control."
        )
    return notes


def _origin(clean: Results | None) -> dict[str, Any]:
    """Provenance of the run, without the ids of the tokens, which the table of tokens has."""
    if clean is None:
        return {}
    return {
        name: clean.provenance[name]
        for name in ("analyses", "versions", "untested_versions", "closing_error")
        if name in clean.provenance
    }


# ---- statistics over pairs ---------------------------------------------------------------------


def _by_state(
    apart: pd.DataFrame, tokens: pd.DataFrame, mask: pd.Series[bool], levels: Mapping[str, Any]
) -> pd.DataFrame:
    """Mean distances over pairs at every state."""
    rows = chosen_rows(apart, tokens, mask)
    states = np.sort(rows[STATE].unique())
    out: dict[str, Any] = {"layer": states, STATE: states, "block": states - 1}
    known = matrix(rows, "distance", states)
    out["pairs"] = np.isfinite(known).sum(axis=0)
    controls = [f"unrelated_{name}" for name in UNRELATED]
    for name in (*MEASURES, *STEPS, *controls):
        band = bounded_band(matrix(rows, name, states), *range_of(name), levels["confidence"])
        out |= dict(zip((name, f"{name}_low", f"{name}_high"), band, strict=True))
    own, other = (matrix(rows, f"{kind}relative_distance", states) for kind in ("", "unrelated_"))
    test = paired_profile(own, other, **levels)
    out |= {"unrelated_p": test["p"], "unrelated_p_max": test["p_max"]}
    out["repeated_distance"] = apart.groupby(STATE)["repeated_distance"].max().to_numpy()
    return pd.DataFrame(out)


def _subtracted(found: Pairs, mask: pd.Series[bool], levels: Mapping[str, Any]) -> Pairs:
    """The same with the differences of all tables and their tests."""
    assert found.clean is not None and found.corrupted is not None  # noqa: S101, PT018  given
    tables, notes, tests = {}, [], []
    for name, result in found.clean.items():
        table, why = differences(result, found.corrupted[name], found.tokens)
        if table is None:
            notes.append(f"{name} {why}, so that no difference of tokens is taken of it.")
            continue
        tables[name] = table
        rows = chosen_rows(table, found.tokens, mask)
        columns = [c for c in result.values if c in table]
        tests += [_tested(rows, name, c, levels) for c in columns]
    known = [test for test in tests if len(test)]
    whole = pd.concat(known, ignore_index=True) if known else pd.DataFrame()
    return replace(
        found,
        differences=tables,
        tests=whole,
        onsets=onsets(whole, round(1 - levels["confidence"], 12)),
        notes=(*found.notes, *notes),
    )


def _tested(
    rows: pd.DataFrame, analysis: str, column: str, levels: Mapping[str, Any]
) -> pd.DataFrame:
    """Paired tests of one column at every layer; heads and further keys are averaged."""
    if rows[column].isna().all():
        return pd.DataFrame()
    layered = "layer" in rows
    rows = rows if layered else rows.assign(layer=0, **{STATE: 0})
    layers = np.sort(rows["layer"].unique())
    # Both means over the same cells: one side may be undefined where the other is not.
    known = rows[column].notna()
    rows = rows.assign(**{f"{column}_clean": rows[f"{column}_clean"].where(known)})
    difference = matrix(rows, column, layers, "layer")
    clean = matrix(rows, f"{column}_clean", layers, "layer")
    test = paired_profile(clean + difference, clean, **levels)
    test = test.rename(columns={"mean_a": "mean_corrupted", "mean_b": "mean_clean"})
    test.loc[test["pairs"] < FEWEST_PAIRS, ["low", "high"]] = np.nan
    offset = int(rows[STATE].iloc[0]) - int(rows["layer"].iloc[0])
    number = np.asarray(layers, np.float64) if layered else np.full(len(layers), np.nan)
    index = {"analysis": analysis, "column": column, "layer": number, STATE: number + offset}
    return pd.concat([pd.DataFrame(index), test], axis=1)


def _with_patches(
    found: Pairs, patches: pd.DataFrame, same: float, levels: Mapping[str, Any]
) -> Pairs:
    lost = patches.groupby("pair")["recovery"].apply(lambda x: x.isna().all()).to_numpy()
    notes = []
    if lost.any():
        metric = in_words(found.facts["metric"])
        notes.append(
            f"in {int(lost.sum())} of {len(lost)} pairs the {metric} is the same on both sides, so "
            "that there is nothing to recover; they are left out of it."
        )
    if weak := weak_pairs(patches):
        listed = ", ".join(map(str, weak))
        notes.append(
            f"in {len(weak)} of {len(lost)} pairs ({listed}) there is next to nothing to recover: "
            f"the {in_words(found.facts['metric'])} of the two sides differs by less than "
            f"{percent(WEAK)} of what it does in the median pair, and shares of that are mostly "
            "rounding; they are left out of mean_recovery and of its tests, and count by what "
            "there is to recover in recovery."
        )
    first = patches.drop_duplicates("pair")
    against = int((first["clean"] < first["corrupted"]).sum())
    if found.facts["metric"] != "kl" and against:
        notes.append(
            f"in {against} of {len(first)} pairs the answer is *less* likely after the clean "
            "prompt than after the corrupted one; a share recovered then counts the other way."
        )
    tokens = found.tokens
    return replace(
        found,
        patches=patches,
        patched=by_part(patches, tokens, **levels),
        agreement=agreement(patches, found.distances, same),
        notes=(*found.notes, *notes),
    )
