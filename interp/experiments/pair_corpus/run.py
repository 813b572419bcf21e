"""Pairs of prompts in any number: plan, measure in shards, merge, one finding.

Knows the order of the steps; the engine of corpora decides which process measures which shard, and
keeps what is finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp._files import checksum, from_parquet, kind_of, reading, write_sealed
from interp.contract.columns import refuse_taken
from interp.contract.leaves import State
from interp.errors import BadInput
from interp.experiments.pair_corpus.source import pair_source
from interp.experiments.pair_corpus.sums import NO_LAYER, Shape
from interp.experiments.pair_corpus.tables import by_state, corrected, grouped, meanings, tested
from interp.experiments.pair_corpus.worker import (
    COUNTS,
    DISTANCES,
    MOST,
    PARTING,
    SAMPLE,
    TOKENS,
    TOLD,
    PairsJob,
)
from interp.experiments.pair_finding import PairsSummary
from interp.experiments.pair_tables import onsets
from interp.experiments.patching import KL, LOG_PROB, LOGITS, METRICS
from interp.prompts.pairs import ANSWER, WRONG
from interp.runs.corpus.engines import Engine
from interp.runs.corpus.files import owned
from interp.runs.corpus.manifest import REMEDY, document_of
from interp.runs.corpus.output import FINISHED
from interp.runs.corpus.pieces import merged, span_of
from interp.runs.corpus.sharded import (
    FINDING,
    ShardedRun,
    engine_of,
    ready_folder,
    untrained_of,
    whole_run,
)
from interp.runs.pairs import taken_labels
from interp.stats.paired import FEWEST_PAIRS

SUMMARY = "summary"
SHARD_PAIRS = 5000
"""Pairs per shard unless `shard_pairs` is given."""
_TAKEN = (
    *("analysis", "column", "pairs", "mean", "low", "high", "std", "min", "max", "undefined"),
    *("q05", "q25", "median", "q75", "q95", "mean_clean", "t", "t_p", "t_p_holm"),
)


def summarised(
    model: Any,
    pairs: Any,
    analyses: Mapping[str, Any],
    *,
    out: str | Path | None,
    measured: Mapping[str, Any],
    given: Mapping[str, Any],
    by: Sequence[str],
    sample: int,
    max_tokens: int,
    threads: int,
    workers: int,
    shard_pairs: int | None,
    control: str | None,
    resume: bool,
    overwrite: bool,
    loading: Mapping[str, Any],
    progress: bool,
) -> PairsSummary:
    """The summary of pairs in any number, measured in shards in the folder `out`.

    Args:
        measured: of `PairsJob`, and the confidence of intervals.
        given: `answer` and `wrong` of all pairs, where they are given.
        loading: for `load_model`.
        analyses, and the rest: as for `interp.pairs`.

    Raises as `interp.pairs` does, and `BadInput` for a folder that this run may not use.
    """
    if out is None:
        raise BadInput(
            "keep='summary' needs a folder, out= (--out): the pairs are measured in shards, which "
            "are kept there, so that the run can be resumed"
        )
    _check(given, by, analyses)
    for name, value, least in (
        ("sample", sample, 0), ("shard_pairs", shard_pairs, 1), ("threads", threads, 1)
    ):  # fmt: skip
        if value is not None and value < least:
            raise BadInput(f"{name}={value}; at least {least}")
    engine, folder = engine_of(workers), Path(out)
    source = pair_source(pairs, by, folder).without(given)
    names = {*source.extra, *given}
    if WRONG in names and ANSWER not in names:
        raise BadInput("there is a wrong answer and no right one: give answer= (--answer) as well")
    confidence = measured["confidence"]
    measured = {name: x for name, x in measured.items() if name != "confidence"}
    job = PairsJob(
        model, loading, dict(analyses), source, dict(given), dict(measured), max_tokens, threads,
        folder, control=control,
    )  # fmt: skip
    how = (SHARD_PAIRS if shard_pairs is None else shard_pairs, sample, progress)
    with owned(ready_folder(folder, resume, overwrite)):
        done, found = _whole(job, how, engine, confidence)
        if control is not None:
            copy = untrained_of(job)
            with owned(ready_folder(copy.folder, resume, overwrite)):
                found = found.with_control(_whole(copy, how, engine, confidence)[1])
        return done.written(found)


def _whole(
    job: PairsJob, how: tuple[int, int, bool], engine: Engine, confidence: float
) -> tuple[_Run, PairsSummary]:
    return whole_run(job, lambda: _Run(job, *how), lambda run: (run, run.whole(engine, confidence)))


def _check(given: Mapping[str, Any], by: Sequence[str], analyses: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if not isinstance(value, str | int | np.integer):
            raise BadInput(
                f"{name}= is {type(value).__name__}; with keep='summary' it is one token for all "
                f"pairs, and tokens of single pairs are a column {name!r} of the source"
            )
    taken_labels(list(by))
    refuse_taken([*by, "part"], analyses)
    for name in by:
        if name in _TAKEN:
            raise BadInput(f"label {name!r} is a column that the summary of pairs has; rename it")


class _Run(ShardedRun[PairsJob]):
    """A run over pairs in progress.

    Args:
        sample: number of pairs whose rows are kept.
    """

    def __init__(self, job: PairsJob, shard_pairs: int, sample: int, progress: bool) -> None:
        super().__init__(job, shard_pairs, progress, "pairs")
        rng = np.random.default_rng(job.measured["seed"] % (1 << 64))
        n = self.plan.documents
        drawn = rng.choice(n, size=min(sample, n), replace=False)
        self.job = replace(job, sampled=tuple(sorted(drawn.tolist())))
        self.described: Mapping[str, Any] = {}

    def completed(self, described: Mapping[str, Any]) -> tuple[PairsJob, dict[str, Any]]:
        """The job, and the manifest of the run."""
        self.described = described
        parameters = self.job.parameters(self.shard_documents)
        return self.job, document_of(self.job, parameters, described, self.plan)

    def whole(self, engine: Engine, confidence: float) -> PairsSummary:
        """Measure the shards that are left, merge them, and make the tables."""
        self.measure(engine)
        records = self.pieces.ordered()
        totals = self.totals("pair")
        states = merged(self.job, [span_of(record) for record in records])
        counts = _counts_in(states[COUNTS])
        self._refuse_unread(counts)
        tables = self._tables(states, confidence)
        failures = _failures(records)
        found = PairsSummary(
            **tables,
            **self._sampled(records),
            facts=self._facts(counts, confidence),
            failures=failures,
            notes=tuple(self._notes(counts, failures)),
        )
        asked = {"pairs": self.job.source.name, **self.job.parameters(self.shard_documents)}
        known = {name: self.manifest[name] for name in ("data", "versions")}
        origin = {"model": self.described["model"]["name"], "asked": asked, **known}
        of_groups = meanings(self.job.pairs.by)
        return found.with_about(**origin, totals=totals).with_columns(**of_groups)

    def written(self, found: PairsSummary) -> PairsSummary:
        """Save the finding in the folder of the run, which is finished then."""
        folder = self.job.folder
        found.save(folder / FINDING, overwrite=kind_of(folder / FINDING) is not None)
        files = {str(p.relative_to(folder)): checksum(p) for p in sorted(_tables_in(folder))}
        write_sealed(folder / FINISHED, {"run": self.job.run, "files": files, "tables": {}})
        return found

    # ---- tables ------------------------------------------------------------------------------

    def _tables(self, states: Mapping[str, State], confidence: float) -> dict[str, Any]:
        shapes = {name: _shape(x) for name, x in self.described["shapes"].items()}
        frame = by_state(states[DISTANCES], shapes[DISTANCES], confidence)
        tests, groups = [], []
        for name, shape in shapes.items():
            analysis = self.job.analyses.get(name)
            offset = int(analysis is not None and analysis.depth() == "block")
            how = (states[name], shape, offset, confidence)
            groups += grouped(name, *how)
            if analysis is not None:
                tests += tested(name, *how)
        whole = pd.concat(tests, ignore_index=True) if tests else pd.DataFrame()
        return {
            "frame": frame,
            "summary": corrected(pd.concat(groups, ignore_index=True), self.job.pairs.by),
            "tests": whole,
            "onsets": onsets(whole, round(1 - confidence, 12)),
        }

    def _sampled(self, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The rows of the sampled pairs, in the order of their numbers."""
        kept = {name: _rows(self.job.folder, records, name) for name in self.job.tables}
        own = {name: kept.pop(name) for name in (TOKENS, DISTANCES, PARTING)}
        return {**own, "differences": {n: rows for n, rows in kept.items() if len(rows)}}

    def _facts(self, counts: Mapping[str, int], confidence: float) -> dict[str, Any]:
        names = {*self.job.pairs.extra, *self.job.given}
        metric = LOGITS if WRONG in names else LOG_PROB if ANSWER in names else KL
        told = {name: counts[name] for name in ("pairs", "places", "parted", "met")}
        declared = {
            name: [value for plot in analysis.plots for value in plot.values]
            for name, analysis in self.job.analyses.items()
        }
        known = {name: self.described[name] for name in ("read", "threshold")}
        about = {"model": self.described["model"]["name"], "metric": metric}
        about |= {"metric_meaning": METRICS[metric], "confidence": confidence, "keep": SUMMARY}
        return {**known, **told, **about, "declared": declared}

    def _refuse_unread(self, counts: Mapping[str, int]) -> None:
        if counts["unread"] == counts["pairs"]:
            raise BadInput(
                f"no pair has an ordinary token to read ({self.described['read']}); choose other "
                "parts by read=, or pass special=True"
            )

    # ---- notes -------------------------------------------------------------------------------

    def _notes(self, counts: Mapping[str, int], failures: pd.DataFrame) -> Iterator[str]:
        n = counts["pairs"]
        if n < FEWEST_PAIRS:
            yield (
                f"{n} pair{'s' * (n > 1)}: no interval can be given for fewer than {FEWEST_PAIRS}; "
                "all means are of these pairs only."
            )
        for name, why in self.described["left_out"].items():
            yield f"{name} {why}."
        if len(failures):
            first = f"pair {failures['pair'].iloc[0]}: "
            reason = failures["reason"].iloc[0].removeprefix(first)
            some = f"{len(failures)} of {n + len(failures)} pairs"
            yield f"{some} were not measured (the first: {first}{reason})."
        if counts["same"]:
            yield f"{counts['same']} of {n} pairs have the same tokens on both sides."
        if counts["uneven"]:
            yield (
                f"{counts['uneven']} of {n} pairs have sides of different length; {counts['lost']} "
                "tokens of their longer sides have no counterpart and are left out."
            )
        if counts["shared"]:
            yield (
                f"{counts['shared']} of {n} pairs share a prompt with one of the up to {MOST} "
                "pairs measured with them; they are not independent, and tests and intervals take "
                "them as if they were."
            )
        if counts["alone"]:
            yield (
                f"{counts['alone']} of {n} pairs found no unrelated pair of their length to be "
                "compared with; their controls are missing."
            )
        if counts["unread"]:
            yield f"{counts['unread']} of {n} pairs have no token that is read."


def _shape(given: Mapping[str, Any]) -> Shape:
    """A shape that may have been JSON."""
    known: dict[str, Any] = {k: tuple(x) if isinstance(x, list) else x for k, x in given.items()}
    return Shape(**known)


def _counts_in(state: State) -> dict[str, int]:
    leaf: Any = state["", NO_LAYER][COUNTS]
    return dict(zip(TOLD, leaf.n.tolist(), strict=True))


def _failures(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    rows = [failure for record in records for failure in record["failures"]]
    columns = {"document": np.int64, "where": str, "reason": str}
    frame = pd.DataFrame(rows, columns=list(columns)).astype(columns)
    return frame.rename(columns={"document": "pair"}).sort_values("pair", ignore_index=True)


def _rows(folder: Path, records: Sequence[Mapping[str, Any]], name: str) -> pd.DataFrame:
    """The kept rows of one table, from the parts that the records name."""
    parts = []
    files = sorted(f for record in records for f in record["files"])
    for file in files:
        if Path(file).parts[0] == f"{SAMPLE}{name}":
            with reading(folder / file, REMEDY) as path:
                parts.append(from_parquet(path))
    if not parts:
        return pd.DataFrame()
    return pd.concat(parts, ignore_index=True).sort_values("pair", kind="stable", ignore_index=True)


def _tables_in(folder: Path) -> Iterator[Path]:
    yield from (folder / FINDING).glob("*.parquet")
    yield from (folder / FINDING).glob("*.json")
