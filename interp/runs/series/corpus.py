"""A series over a corpus: every member is a corpus run of its own, in its own folder.

Knows corpus runs and where members lie; nothing of tables.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any

from interp._files import kind_of
from interp._progress import remark
from interp.errors import BadInput, unknown
from interp.runs.corpus.manifest import AnotherRun, read_manifest
from interp.runs.corpus.run import CorpusRun, planned, run_corpus
from interp.runs.results import CORPUS
from interp.runs.series.attempt import Measured, attempted
from interp.runs.series.facts import facts_in
from interp.runs.series.members import Member
from interp.runs.series.records import folder_of

OWN = {"model", "source", "analyses", "out", "resume", "overwrite", "model_options", "progress"}
OPTIONS = tuple(name for name in signature(run_corpus).parameters if name not in OWN)
"""Options of `interp.run_corpus` that a series over a corpus takes too."""
FREE = ("workers", "ray", "gpus")
"""Those that change nothing in the tables, so that a resumed series may have others."""


def corpus_told(
    source: Any, chosen: Mapping[str, Any], out: str | Path | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Source, fingerprint and size of the corpus; raises for what can be refused already."""
    for name in options:
        if name not in OPTIONS:
            raise unknown("option of a series over a corpus", name, OPTIONS)
    if out is None:
        raise BadInput(
            "corpus= needs a folder, out= (--out): every member is a corpus run of its own there"
        )
    name, plan = planned(source, list(chosen.values()), out, **options)
    return {"source": name, "sha256": plan.sha256, "documents": plan.documents}


class CorpusWork:
    """One member after the other over a corpus, each in its folder.

    Args:
        source: the corpus.
        chosen: analyses by name.
        options: of `run_corpus`.
        loading: for `load_model`, for all members.
        out: the folder of the series.
        progress: show which member is measured, and how far it is.
    """

    def __init__(
        self,
        source: Any,
        chosen: Mapping[str, Any],
        options: Mapping[str, Any],
        loading: Mapping[str, Any],
        out: Path,
        progress: bool,
    ) -> None:
        self.source, self.chosen, self.out = source, dict(chosen), out
        self.options, self.loading, self.progress = dict(options), dict(loading), progress

    def measure(self, member: Member, number: int, total: int) -> Measured:
        """The record of a member, and None: its tables are in its folder already."""
        if self.progress:
            remark(f"{member.name} ({number} of {total})")
        return attempted(member, lambda: self._measured(member))

    def passed(self, record: Mapping[str, Any]) -> None:
        """A member that is there already; documents are tokenised by each member itself."""

    def _measured(self, member: Member) -> Measured:
        place = folder_of(self.out, member.name)
        # A member that was interrupted goes on at its shards.
        begun = kind_of(place / CORPUS) is not None
        done: CorpusRun | None = None
        with suppress(AnotherRun):
            done = self._run(member, place, resume=begun)
        if done is None:
            # Of a model that has changed since: settings and corpus are those of the series.
            gc.collect()  # it was loaded to be compared
            done = self._run(member, place, overwrite=True)
        manifest = read_manifest(place)
        known = manifest["provenance"]
        size = int(known.get("vocabulary") or 0)
        facts = facts_in(manifest["model"], size, known.get("tokenizer"))
        return {"facts": facts, "documents": done.documents, "lost": len(done.failures)}, None

    def _run(self, member: Member, place: Path, **how: Any) -> CorpusRun:
        return run_corpus(
            member.model,
            self.source,
            list(self.chosen.values()),
            out=place,
            model_options={**self.loading, **member.options},
            progress=self.progress,
            **how,
            **self.options,
        )
