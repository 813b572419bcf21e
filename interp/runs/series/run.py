"""`series`: the same prompts or corpus in several models, one in memory at a time.

Knows the order of the steps: read the prompts, load a member, measure it, write it, let it go.
"""

from __future__ import annotations

import hashlib
import inspect as signatures
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp._files import json_value
from interp._progress import stage
from interp.contract.options import check_options
from interp.contract.registry import resolve
from interp.contract.settings import configured
from interp.errors import BadInput, InterpError, interruptible, unknown
from interp.models.load import load_model, refuse_unknown_model
from interp.prompts.prompts import Prompts
from interp.prompts.sources import Raw
from interp.prompts.tokens import vocabulary_id
from interp.runs.before_loading import (
    opened,
    refuse_batches,
    refuse_keep,
    refuse_labels,
    refuse_reading,
    refuse_target,
)
from interp.runs.corpus.files import owned, remove_leftovers
from interp.runs.provenance import versions
from interp.runs.run import DEFAULT, Wanted, run
from interp.runs.series.attempt import Measured, attempted
from interp.runs.series.corpus import FREE, OPTIONS, CorpusWork, corpus_told
from interp.runs.series.facts import differences, facts_of
from interp.runs.series.members import Member, Members, members_of
from interp.runs.series.records import MEASURED, SCHEMA, Folder, record_of
from interp.runs.series.result import Series
from interp.runs.series.result import opened as opened_series

PASSED_ON = (
    *("target", "labels", "token_labels", "labellers", "mask", "targets", "against", "layers"),
    *("positions", "prepend_bos", "truncate", "keep", "by", "control", "without_dims"),
    "max_tokens",
)
"""Options of `interp.run` that a series takes too."""


def series(
    models: Any,
    prompts: Any = None,
    analyses: Wanted = DEFAULT,
    *,
    corpus: Any = None,
    at: Any = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    settings: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Series:
    """Runs the same analyses over the same prompts or corpus in several models, one at a time.

    The members may be checkpoints of a training run, seeds, sizes, quantisations, or a base and its
    fine-tunes. They stand on an axis: the training steps that their names give, or `at`. A member
    that cannot be loaded or measured is recorded with its error, and the rest goes on.

    Args:
        models: `NAME@REVISION` of the hub, `FOLDER@STEP` (its child `checkpoint-STEP` or
            `step-STEP`), folders, a folder whose children are checkpoints, a glob, GGUF files, or
            a list of any of those; also a mapping from names to models, each perhaps as
            `{"model": …, "dtype": …}`. Model objects are taken too, but are all in memory.
        prompts: as for `interp.run`; token ids only where all members have one vocabulary.
        analyses: as for `interp.run`.
        corpus: in place of prompts, texts of any size, as the source of `interp.run_corpus`: each
            member is a corpus run in its own folder, which goes on at its shards after an
            interruption. Needs `out`.
        at: a place on the axis for each member, in the order given, or by name.
        out: a folder for the results of each member as soon as it is measured; without it all
            stay in memory.
        resume: continue the series in `out`: a member that is there and whole is not measured
            again; new members may have come.
        overwrite: replace what is in `out`.
        settings: parameters of analyses by name, as for `interp.run`.
        model_options: for `load_model`, for all members.
        progress: say what is being done.
        options: further ones of `interp.run`: target, labels, layers, keep, control …; with a
            corpus those of `interp.run_corpus`: by, keep, labels, long, generate, workers ….

    Returns `Series`: a table per analysis with `member` and `at` in front.
    Raises `BadInput`, `UnknownName` for members and options before anything is loaded;
    `InterpError` if not a single member could be measured.
    """
    check_options(settings=settings, model_options=model_options)
    members = members_of(models, at)
    for member in members.members:
        if isinstance(member.model, str | Path):
            refuse_unknown_model(str(member.model), member.options.get("revision"))
    chosen = configured(resolve(analyses), settings)
    loading = dict(model_options or {})
    work: _Work | CorpusWork
    if corpus is not None:
        _refuse_both(prompts)
        told = corpus_told(corpus, chosen, out, options)
        work = CorpusWork(corpus, chosen, options, loading, Path(str(out)), progress)
    else:
        read = _read_prompts(members, prompts, chosen, options)
        told = _prompts_told(read)
        work = _Work(read, chosen, options, loading, progress)
    if resume and out is None:
        raise BadInput("resume= continues the series in a folder: name it by out= (--out)")
    listing = _listing(members, chosen, told, options, loading)
    if out is None:
        return _in_memory(members, listing, work)
    ready = _prepared(Path(out), listing, resume=resume, overwrite=overwrite)
    with ready as ours, interruptible(lambda: _kept(ours, members)):
        return _on_disk(ours, members, listing, work)


def _kept(folder: Folder, members: Members) -> str:
    """What of a series lies on the disk, and how to go on."""
    there = sum(folder.finished(member) is not None for member in members.members)
    of = len(members.members)
    return f"{there} of {of} members are kept; go on with resume=True, --resume"


class _Work:
    """One member after the other: what is measured, and of what."""

    def __init__(
        self,
        prompts: Any,
        chosen: Mapping[str, Any],
        options: Mapping[str, Any],
        loading: Mapping[str, Any],
        progress: bool,
    ) -> None:
        self.prompts, self.chosen, self.progress = prompts, chosen, progress
        self.options, self.loading = dict(options), dict(loading)
        self.vocabulary: tuple[str, str | None] | None = None

    def measure(self, member: Member, number: int, total: int) -> Measured:
        """The record of a member and its results, None where it failed."""
        what = f"{member.name} ({number} of {total})"
        with stage(what, enabled=self.progress):
            return attempted(member, lambda: self._measured(member))

    def passed(self, record: Mapping[str, Any]) -> None:
        """A member that is there already, whose vocabulary the others are compared with."""
        self.vocabulary = self.vocabulary or (record["member"], record["facts"]["tokenizer"])

    def _measured(self, member: Member) -> Measured:
        bridge = load_model(member.model, **{**self.loading, **member.options})
        self._refuse_vocabulary(member, vocabulary_id(getattr(bridge, "tokenizer", None)))
        results = run(
            bridge, self.prompts, list(self.chosen.values()), progress=False, **self.options
        )
        return {"facts": facts_of(bridge, results.provenance["model"])}, results

    def _refuse_vocabulary(self, member: Member, tokenizer: str | None) -> None:
        """Raises for token ids that mean other words in this member's vocabulary."""
        first = self.vocabulary = self.vocabulary or (member.name, tokenizer)
        if first[1] != tokenizer and _are_ids(self.prompts):
            raise BadInput(
                f"the prompts are token ids, and the vocabulary of {member.name!r} is not that of "
                f"{first[0]!r}; give texts, which each member tokenises itself"
            )


# ---- before anything is loaded ---------------------------------------------------------------


def _read_prompts(
    members: Members, prompts: Any, chosen: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """The prompts, read once for all members; raises for what can be refused already."""
    known = signatures.signature(run).parameters
    for name in options:
        if name in OPTIONS and name not in PASSED_ON:
            raise BadInput(f"{name}= is an option of a corpus: only with corpus=")
        if name not in PASSED_ON:
            raise unknown("option of a series", name, [n for n in known if n in PASSED_ON])
    check_options(**options)
    refuse_keep(options.get("keep", "tokens"), options.get("by", ()))
    refuse_batches(options.get("max_tokens", 4096))
    if prompts is None:
        refuse_reading(chosen)
        return None
    target = options.get("target")
    read = opened(members.members[0].model, prompts, options.get("mask"))
    refuse_target(read, target)
    refuse_labels(
        read,
        chosen,
        options.get("labels"),
        options.get("token_labels"),
        options.get("by", ()),
        role=bool(target),
        complete=not options.get("labellers"),
    )
    return read


def _refuse_both(prompts: Any) -> None:
    if prompts is not None:
        raise BadInput("pass prompts (a few texts) or corpus= (any size), not both")


def _are_ids(prompts: Any) -> bool:
    return isinstance(prompts, Prompts) or (isinstance(prompts, Raw) and prompts.ids is not None)


def _listing(
    members: Members,
    chosen: Mapping[str, Any],
    told: Mapping[str, Any],
    options: Mapping[str, Any],
    loading: Mapping[str, Any],
) -> dict[str, Any]:
    """Settings of a series as JSON values; two series with the same ones may be one."""
    analyses = {
        name: {"class": f"{type(a).__module__}:{type(a).__qualname__}"} | a.parameters()
        for name, a in chosen.items()
    }
    document = {
        "schema": SCHEMA,
        "parameters": {
            "analyses": analyses,
            "options": {k: _plain(v) for k, v in options.items() if k not in FREE},
            "loading": {k: str(v) for k, v in loading.items()},
        },
        "prompts": dict(told),
        "versions": versions(),
        "axis": members.axis,
        "ordered": members.ordered,
        "notes": list(members.notes),
        "members": [record_of(member) for member in members.members],
    }
    # There and back, so that settings of this call equal those that were read from the disk.
    plain: dict[str, Any] = json.loads(json.dumps(document, default=json_value))
    return plain


def _plain(value: Any) -> Any:
    """An option as JSON: a function by its name, whose address in memory means nothing."""
    if callable(value):
        return getattr(value, "__qualname__", type(value).__name__)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v) for v in value]
    return value


def _prompts_told(prompts: Any) -> dict[str, Any]:
    """Source and fingerprint of the prompts as they were read."""
    if prompts is None:
        return {"source": "no prompts", "sha256": ""}
    if isinstance(prompts, Prompts):
        return {"source": prompts.source, "sha256": prompts.fingerprint()}
    parts = [prompts.texts, prompts.ids, prompts.chats, prompts.fields, prompts.annotations]
    text = json.dumps(parts, default=json_value, sort_keys=True)
    return {"source": prompts.source, "sha256": hashlib.sha256(text.encode()).hexdigest()}


# ---- measuring -------------------------------------------------------------------------------


def _in_memory(members: Members, listing: dict[str, Any], work: _Work | CorpusWork) -> Series:
    records, kept = [], {}
    for number, member in enumerate(members.members, 1):
        record, results = work.measure(member, number, len(members.members))
        records.append(record)
        if results is not None:
            kept[member.name] = results
    return Series(records, kept, _finished(listing, records))


@contextmanager
def _prepared(
    folder: Path, listing: Mapping[str, Any], *, resume: bool, overwrite: bool
) -> Iterator[Folder]:
    """The folder, made ready for this series and locked against every other run."""
    there = Folder(folder)
    there.check(listing, resume=resume, overwrite=overwrite)
    with owned(folder):
        remove_leftovers(folder)
        there.begin(listing, resume=resume)
        yield there


def _on_disk(
    folder: Folder, members: Members, listing: dict[str, Any], work: _Work | CorpusWork
) -> Series:
    records: list[dict[str, Any]] = []
    for number, member in enumerate(members.members, 1):
        record = folder.finished(member)
        if record is None:
            record, results = work.measure(member, number, len(members.members))
            folder.keep(record, results)
            results = None
        else:
            work.passed(record)
        # Its place may be another one than when it was measured.
        records.append({**record, "at": member.at, "run": member.run})
        waiting = listing["members"][number:]
        folder.write_listing(listing | {"members": [*records, *waiting]})
    document = _finished(listing, records)
    folder.write_listing(document | {"members": records})
    return opened_series(folder.out, records, document)


def _finished(listing: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The listing with what the members differ in; raises if none could be measured."""
    measured = {r["member"]: r["facts"] for r in records if r["status"] == MEASURED}
    if not measured:
        raise InterpError(
            f"none of the {len(records)} members could be measured; the first, "
            f"{records[0]['member']!r}: {records[0]['error']}"
        )
    notes = [*listing["notes"], *differences(measured)]
    return {k: v for k, v in listing.items() if k != "members"} | {"notes": notes}
