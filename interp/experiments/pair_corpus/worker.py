"""Measurement of one shard of pairs: read, align, run, add up, write.

A window of pairs goes through the passes that `interp.pairs` makes of all pairs, and leaves its
sums. A pair that cannot be read, aligned or measured is a failure with its number and reason; the
others are measured.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp._files import atomic, checksum, to_parquet, write_sealed
from interp.contract.analysis import Analysis
from interp.contract.columns import STATE
from interp.contract.leaves import Count, Leaf, State, merge_states
from interp.errors import InterpError
from interp.experiments.pair_corpus.source import PairSource, cut
from interp.experiments.pair_corpus.sums import (
    CHOSEN,
    NO_LAYER,
    ORDINARY,
    REPEATED,
    Shape,
    Window,
    repeated,
    summed,
)
from interp.experiments.pair_tables import STEPS, both_sides, of_the_whole, read_parts
from interp.experiments.steering import one_stack
from interp.models.untrained import random_copy
from interp.prompts.pairs import PromptPairs, read_pairs
from interp.runs.corpus.documents import Failure, reason_of, windows
from interp.runs.corpus.manifest import settings_of
from interp.runs.corpus.output import PAIRS
from interp.runs.corpus.shard import description, model_of, part_path, record_path, state_path
from interp.runs.corpus.sources import Document, Shard, Source
from interp.runs.pairs import (
    MEASURES,
    UNRELATED,
    PairPasses,
    differences,
    distances,
    pairs_of,
    parting,
    shared_prompts,
    unrelated,
)
from interp.runs.run import run
from interp.runs.storage import save_state
from interp.stats.flips import flip_signs

COUNTS, DISTANCES, PARTING = "counts", "distances", "parting"
OWN = (COUNTS, DISTANCES, PARTING)
"""Names of what is accumulated besides analyses."""
SAMPLE = "sample_"
TOKENS = "tokens"
MOST = 256
"""Most pairs of a window; unrelated pairs are drawn within it."""
GAP = "relative_distance_gap"
"""Relative distance minus that to the unrelated pair."""
OF_DISTANCES = (*MEASURES, *STEPS, *(f"unrelated_{name}" for name in UNRELATED), GAP)
OF_PARTING = ("parts", "peak_state", "peak", "meets", "last")
TOLD = ("pairs", "places", "parted", "met", "same", "uneven", "lost", "shared", "alone", "unread")
"""What is counted of pairs and of their aligned tokens."""


@dataclass(frozen=True)
class PairsJob:
    """The settings that all shards of a run over pairs share; can be sent to another process.

    Attributes:
        model: as for `load_model`.
        options: for `load_model`.
        analyses: by name.
        pairs: the source of the pairs and its columns.
        given: `answer` and `wrong` of all pairs, where they are options.
        measured: `align`, `read`, `special`, `threshold`, `controls`, `resamples`, `seed` and
            `prepend_bos`, as for `interp.pairs`.
        max_tokens: budget of a pass.
        threads: of the arithmetic; results depend on it in the last bits.
        folder: the output folder of the run.
        sampled: numbers of the pairs whose rows are kept.
        control, untrained, run: as in every `ShardJob`.
    """

    model: Any
    options: Mapping[str, Any]
    analyses: Mapping[str, Analysis]
    pairs: PairSource
    given: Mapping[str, Any]
    measured: Mapping[str, Any]
    max_tokens: int
    threads: int
    folder: Path
    sampled: tuple[int, ...] = ()
    control: str | None = None
    untrained: bool = False
    run: str = ""

    @property
    def source(self) -> Source:
        """The pairs, a document each."""
        return self.pairs.source

    @property
    def states(self) -> tuple[str, ...]:
        """Names of what each shard accumulates."""
        return (*OWN, *self.analyses)

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables whose rows are kept of the sampled pairs."""
        return (TOKENS, DISTANCES, PARTING, *self.analyses)

    def worker(self) -> PairsWorker:
        """A worker, with its model loaded."""
        return PairsWorker(self)

    def parameters(self, shard: int | None) -> dict[str, Any]:
        """Everything that decides over the values of the tables, apart from model and data."""
        return {
            "keep": PAIRS,
            "analyses": settings_of(self.analyses),
            "columns": [*self.pairs.sides, *self.pairs.extra],
            "by": list(self.pairs.by),
            "given": dict(self.given),
            **self.measured,
            "sampled": list(self.sampled),
            "max_tokens": self.max_tokens,
            "threads": self.threads,
            "shard_documents": shard,
        }


@dataclass
class _Tally:
    """What a shard has so far."""

    states: dict[str, State]
    documents: int = 0
    measured: int = 0
    tokens: int = 0
    longest: int = 0
    failures: list[Failure] = field(default_factory=list)
    sample: dict[str, list[pd.DataFrame]] = field(default_factory=dict)


class PairsWorker:
    """A loaded model that measures shards of pairs, one after the other."""

    def __init__(self, job: PairsJob) -> None:
        self.job, self.bridge = job, model_of(job)
        if job.untrained:
            self.bridge = random_copy(self.bridge)
        self.anatomy, self.stack = one_stack(self.bridge, "pairs")
        self.anatomy.wire(list(job.analyses.values()))
        self.parts, self.told = read_parts(job.measured["read"], self.anatomy.causal)
        given = job.measured["threshold"]
        self.threshold = max(self.anatomy.tolerance, 1e-6) if given is None else given
        self.shapes, self.left_out = self._probed()

    def describe(self) -> dict[str, Any]:
        """Identity of the model, and the shape of every table; JSON values."""
        return description(self.bridge, self.anatomy, self.job.analyses) | {
            "read": self.told,
            "threshold": self.threshold,
            "left_out": self.left_out,
            "shapes": {name: vars(shape) for name, shape in self.shapes.items()},
        }

    def adopt(self, job: PairsJob) -> None:
        """Work on `job` from now on: the same model, completed by the values of `describe`."""
        self.job = job

    # ---- tables ------------------------------------------------------------------------------

    def _probed(self) -> tuple[dict[str, Shape], dict[str, str]]:
        """The shape of every table, and why analyses have none, by a run over two short prompts."""
        states = tuple(range(len(self.stack.boundaries)))
        tested = (OF_DISTANCES.index(GAP),)
        shapes = {
            DISTANCES: Shape(OF_DISTANCES, states, STATE, tested),
            PARTING: Shape(OF_PARTING, ()),
        }
        if not self.job.analyses:
            return shapes, {}
        size = self.anatomy.d_vocab or 4
        prompts = [[1 % size, 2 % size, 3 % size], [2 % size, 1 % size, 3 % size]]
        analyses = list(self.job.analyses.values())
        found = run(self.bridge, prompts, analyses, **self._answers(2), progress=False)
        left_out: dict[str, str] = {}
        for name, result in found.items():
            if not {"prompt", "position"} <= set(result.frame):
                left_out[name] = "has no row per token, so that it has no differences"
            elif of_the_whole(result):
                left_out[name] = (
                    "may measure a token by all prompts of a run, so that values of different "
                    "windows cannot be compared; compare a part of the pairs with keep='all'"
                )
            else:
                shapes[name] = _shape_of(result.frame, result.values)
        return shapes, left_out

    def _answers(self, n: int) -> dict[str, Any]:
        """Any two answers of a probe, where the pairs have some."""
        names = {*self.job.pairs.extra, *self.job.given}
        ids = {"targets": "answer", "against": "wrong"}
        size = self.anatomy.d_vocab or 4
        return {k: [(i + 1) % size] * n for i, (k, v) in enumerate(ids.items()) if v in names}

    @property
    def analyses(self) -> dict[str, Analysis]:
        """The analyses that have differences."""
        return {name: a for name, a in self.job.analyses.items() if name in self.shapes}

    # ---- one shard ---------------------------------------------------------------------------

    def measure(self, shard: Shard) -> dict[str, Any]:
        """Measure one shard, write its files, and last its record, which is returned."""
        job = self.job
        tally = _Tally({name: {} for name in job.states})
        for documents in cut(windows(job.source.read(shard)), MOST):
            self._window(documents, tally)
        sample = {name: pd.concat(parts) for name, parts in tally.sample.items() if parts}
        paths = [p for name, state in tally.states.items() if (p := self._save(shard, name, state))]
        paths += [self._save_rows(shard, name, rows) for name, rows in sample.items()]
        record = {
            "run": job.run,
            "shard": shard.index,
            "documents": tally.documents,
            "chunks": tally.measured,
            "tokens": tally.tokens,
            "longest": tally.longest,
            "rows": {f"{SAMPLE}{name}": len(sample.get(name, ())) for name in job.tables},
            "failures": [vars(failure) for failure in tally.failures],
            "files": {str(p.relative_to(job.folder)): checksum(p) for p in paths},
        }
        return write_sealed(record_path(job.folder, shard.span), record)

    def _save(self, shard: Shard, name: str, state: State) -> Path | None:
        path = state_path(self.job.folder, name, shard.span)
        if not state:
            return None
        with atomic(path) as temporary:
            save_state(state, temporary)
        return path

    def _save_rows(self, shard: Shard, name: str, rows: pd.DataFrame) -> Path:
        path = part_path(self.job.folder, f"{SAMPLE}{name}", shard)
        with atomic(path) as temporary:
            to_parquet(rows, temporary)
        return path

    # ---- one window --------------------------------------------------------------------------

    def _window(self, documents: Sequence[Document], tally: _Tally) -> None:
        """Measure a window; one that fails is measured again, one pair at a time."""
        tally.documents += len(documents)
        ready, kept = self._read(documents, tally)
        if ready is None:
            return
        error = self._measured(ready, kept, tally)
        if error is None:
            return
        tried: list[tuple[Document, Exception | None]] = [(kept[0], error)]
        if len(kept) > 1:
            tried = [(d, self._measured(self._pairs([d]), [d], tally)) for d in kept]
        failed = [_failure(d, e) for d, e in tried if e is not None]
        # One bad pair is a failure of that pair; a whole window is one of the analysis or the
        # machine, and would go on for days.
        if len(failed) == len(kept) > 1:
            raise InterpError(
                f"not one of {len(failed)} pairs could be measured; the first: {failed[0].reason}"
            )
        tally.failures += failed

    def _read(
        self, documents: Sequence[Document], tally: _Tally
    ) -> tuple[PromptPairs | None, list[Document]]:
        """The pairs of a window that can be read and aligned, with their documents."""
        tally.failures += [Failure(d.number, -1, d.where, d.fault) for d in documents if d.fault]
        usable = [d for d in documents if not d.fault]
        try:
            return (self._pairs(usable) if usable else None), usable
        except InterpError:
            fine = [d for d in usable if self._fits(d, tally)]
        try:
            return (self._pairs(fine) if fine else None), fine
        except InterpError as error:  # each can be read alone, but not all together
            tally.failures += [_failure(d, error) for d in fine]
            return None, []

    def _fits(self, document: Document, tally: _Tally) -> bool:
        try:
            self._pairs([document])
        except InterpError as error:
            tally.failures.append(_failure(document, error))
            return False
        return True

    def _pairs(self, documents: Sequence[Document]) -> PromptPairs:
        job = self.job
        rows = [job.pairs.row(document) for document in documents]
        raw = read_pairs(rows, **job.given)
        chosen = {name: job.measured[name] for name in ("align", "prepend_bos")}
        return pairs_of(self.bridge, self.anatomy, raw, **chosen)

    def _measured(
        self, ready: PromptPairs, documents: Sequence[Document], tally: _Tally
    ) -> Exception | None:
        """Add the sums of these pairs, all or nothing; returns the error, if any."""
        numbers = [document.number for document in documents]
        try:
            states, sample = self._sums(ready, numbers)
        except (OSError, MemoryError):
            raise  # of the machine, not of the pairs
        except Exception as error:  # noqa: BLE001  one pair must not cost the run
            return error
        for name, state in states.items():
            tally.states[name] = merge_states(tally.states[name], state)
        for name, rows in sample.items():
            tally.sample.setdefault(name, []).append(rows)
        lengths = np.stack([ready.clean.lengths, ready.corrupted.lengths])
        tally.measured += len(documents)
        tally.tokens += int(lengths.sum())
        tally.longest = max(tally.longest, int(lengths.max()))
        return None

    def _sums(
        self, ready: PromptPairs, numbers: Sequence[int]
    ) -> tuple[dict[str, State], dict[str, pd.DataFrame]]:
        """The sums of every table, and the rows of the sampled pairs."""
        measured = self.job.measured
        tokens = ready.index()
        ordinary = measured["special"] | ~tokens["special"]
        chosen = tokens["part"].isin(self.parts) & ordinary
        partners = unrelated(ready, measured["controls"], measured["seed"])
        tables = self._tables(ready, tokens, partners)
        window = Window(
            tokens.assign(**{CHOSEN: chosen, ORDINARY: ordinary}),
            _labels(ready, self.job.pairs.by),
            self.job.pairs.by,
            numbers,
            flip_signs(numbers, measured["resamples"], measured["seed"]),
        )
        states = {n: summed(table, self.shapes[n], window) for n, table in tables.items()}
        for state, moments in repeated(tables[DISTANCES]).items():
            states[DISTANCES]["", state][REPEATED] = moments
        unread = len(ready) - tokens.loc[chosen, "pair"].nunique()
        alone = int((partners < 0).all(axis=1).sum()) if partners.shape[1] else 0
        states[COUNTS] = _counts(ready, tables[PARTING], alone=alone, unread=unread)
        here = np.flatnonzero(np.isin(numbers, self.job.sampled)).tolist()
        if not here:
            return states, {}
        kept = {TOKENS: tokens, **tables, DISTANCES: tables[DISTANCES].drop(columns=GAP)}
        return states, {n: _of_pairs(table, here, numbers) for n, table in kept.items()}

    def _tables(
        self, ready: PromptPairs, tokens: pd.DataFrame, partners: Any
    ) -> dict[str, pd.DataFrame]:
        """A row per pair, place and layer of everything that is measured."""
        options = {"max_tokens": self.job.max_tokens, "progress": False}
        passes = PairPasses.of(self.bridge, self.anatomy, ready, self.job.max_tokens)
        apart = distances(self.bridge, self.stack, passes, partners, progress=False)
        apart[GAP] = apart["relative_distance"] - apart["unrelated_relative_distance"]
        found = {DISTANCES: apart, PARTING: parting(apart, self.threshold)}
        clean, corrupted = both_sides(self.bridge, ready, self.analyses, options)
        if clean is None or corrupted is None:
            return found
        for name in self.analyses:
            table, why = differences(clean[name], corrupted[name], tokens)
            if table is None:
                raise InterpError(f"{name} {why}")
            found[name] = table
        return found


def _shape_of(frame: pd.DataFrame, values: Sequence[str]) -> Shape:
    layers = sorted(map(int, frame["layer"].unique())) if "layer" in frame else []
    return Shape(tuple(values), tuple(layers), tested=tuple(range(len(values))), sided=True)


def _failure(document: Document, error: Exception) -> Failure:
    """A pair that failed; its own number in place of that in the list it was read from."""
    text = reason_of(error).replace(" of list of pairs", "").replace(" (list of prompts)", "")
    text = re.sub(r"\b(pair|prompt) 0\b", f"pair {document.number}", text)
    return Failure(document.number, -1, document.where, text)


def _labels(ready: PromptPairs, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The values of the group columns of every pair, "" for none."""
    columns = [ready.fields.get(name, (None,) * len(ready)) for name in names]
    return [
        tuple("" if x is None else str(x) for x in cells) for cells in zip(*columns, strict=True)
    ] or [()] * len(ready)


def _counts(ready: PromptPairs, parted: pd.DataFrame, *, alone: int, unread: int) -> State:
    lengths = np.stack([ready.clean.lengths, ready.corrupted.lengths])
    uneven = np.flatnonzero(lengths[0] != lengths[1])
    found = {
        "pairs": len(ready),
        "places": len(parted),
        "parted": int(parted["parts"].notna().sum()),
        "met": int(parted["meets"].notna().sum()),
        "same": int(ready.same.sum()),
        "uneven": len(uneven),
        "lost": sum(int(lengths[:, i].max()) - len(ready.places[i]) for i in uneven),
        "shared": shared_prompts(ready),
        "alone": alone,
        "unread": unread,
    }
    leaf: Leaf = Count(np.asarray([found[name] for name in TOLD], dtype=np.int64))
    return {("", NO_LAYER): {COUNTS: leaf}}


def _of_pairs(table: pd.DataFrame, here: Sequence[int], numbers: Sequence[int]) -> pd.DataFrame:
    """The rows of some pairs of a window, with their numbers in the whole run."""
    rows = table[table["pair"].isin(here)]
    return rows.assign(pair=np.asarray(numbers, np.int64)[rows["pair"]]).reset_index(drop=True)
