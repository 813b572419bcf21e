"""What a corpus run has beside its rows, for a sample of them: kept examples, and a control.

Knows results and manifests; nothing of models. What an analysis keeps is of chunks; of a document
its first chunk is shown, whose positions are those of the document. Where the model continued the
documents, a chunk is a whole text and all are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from interp.contract.leaves import Examples, State, only
from interp.models.untrained import RANDOM_INIT
from interp.runs.corpus.manifest import GENERATE
from interp.runs.results import Result, Results
from interp.stats.table import is_summary

# Of a manifest: a document has so many ids for its chunks, from its number times this on.
PER_DOCUMENT = "ids_per_document"
MOST = 16  # documents that are shown for what was kept of them; the others lie all over the corpus


def kept_documents(kept: Results | None, manifest: Mapping[str, Any]) -> list[int]:
    """The first documents of whose first chunk more than rows was kept, in their order."""
    if kept is None:
        return []
    per_document = manifest["parameters"].get(PER_DOCUMENT, 1)
    shown = _prompts(kept.tokens["prompt"].unique().tolist(), manifest)
    return sorted({chunk // per_document for chunk in shown})[:MOST]


def _prompts(chunks: list[int], manifest: Mapping[str, Any]) -> dict[int, int]:
    """The prompt of a sample that every chunk begins; chunks that begin none are left out."""
    settings = manifest["parameters"]
    per_document = settings.get(PER_DOCUMENT)  # manifests of old versions have none
    if not per_document:
        return {}
    if GENERATE in settings:
        samples = settings[GENERATE]["samples"]
        return {c: c // per_document * samples + c % per_document for c in chunks}
    return {c: c // per_document for c in chunks if c % per_document == 0}


def with_kept(sample: Results, kept: Results | None, manifest: Mapping[str, Any]) -> Results:
    """The sample with what was kept of the first chunks of its documents.

    Arrays such as the best tokens of the lens and attention maps come to the result with the rows;
    an analysis without rows, such as `trajectory`, comes with the rows of its own table.
    """
    if kept is None:
        return sample
    prompts = _prompts(kept.tokens["prompt"].unique().tolist(), manifest)
    shown = set(sample.tokens["prompt"])
    places = {chunk: prompt for chunk, prompt in prompts.items() if prompt in shown}
    results = {name: _with_arrays(sample[name], kept.get(name), places) for name in sample}
    results |= {r.name: r for r in _tables(sample, kept, places)}
    return Results(results.values(), sample.provenance, sample.control)


def _with_arrays(rows: Result, kept: Result | None, places: Mapping[int, int]) -> Result:
    if kept is None:
        return rows
    state: State = {
        key: {
            name: Examples(leaf.n, {places[c]: a for c, a in leaf.items.items() if c in places})
            for name, leaf in only(leaves, Examples).items()
        }
        for key, leaves in kept.state.items()
    }
    return Result(rows.name, rows.analysis, state, rows.tokens, kept.strings, _frame=rows.frame)


def _tables(sample: Results, kept: Results, places: Mapping[int, int]) -> Iterator[Result]:
    """Tables with rows of tokens, of analyses that the sample has no rows of."""
    for name in [n for n in kept if n not in sample]:
        frame = kept[name].frame
        if is_summary(frame) or not {"prompt", "position", "layer"} <= set(frame.columns):
            continue
        frame = frame[frame["prompt"].isin(list(places))]
        frame = frame.assign(prompt=frame["prompt"].map(places))
        if len(frame):
            yield Result(name, kept[name].analysis, {}, sample.tokens, _frame=frame)


def kind_of_control(manifest: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """What the model of another run is as a control of the first; None where it cannot be one.

    It can if it is another model over the same corpus, and neither wrote texts of its own.
    """
    if GENERATE in {*manifest["parameters"], *other["parameters"]}:
        return None
    if manifest["data"]["sha256"] != other["data"]["sha256"]:
        return None
    if manifest["model"]["weights"] == other["model"]["weights"]:
        return None
    name = str(other["model"]["name"])
    return RANDOM_INIT if other.get("untrained") or RANDOM_INIT in name else name


def with_control(sample: Results, control: Results, kind: str) -> Results:
    """The sample with the results of a control: rows of the same documents, or a summary."""
    return Results(sample.values(), {**sample.provenance, "control": kind}, control)
