"""The report: everything of a run in one HTML file that opens without a network.

Knows results and their provenance; `sections` decides the content of a section.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interp._files import refuse_existing, write_text
from interp.errors import BadInput
from interp.render.finding import Finding
from interp.render.page import ExplorerParts, Section, fill, libraries, numbered
from interp.render.tables import flat
from interp.runs.explorer.page import explorable, explorer_payload, parts_of
from interp.runs.explorer.payload import title_of
from interp.runs.explorer.small import made_small, note_of
from interp.runs.report.sections import her_comparison, sections_of
from interp.runs.report.views import ResultsLike
from interp.runs.written import GENERATION
from interp.stats.comparison import Comparison

CONTROLS = {"random-init": "the model freshly initialised, over the same prompts"}
NO_CONTROL = (
    "none in this run (add with --control random-init): "
    "anything that an untrained copy shows as well was not learned"
)


def write_report(
    results: ResultsLike,
    path: str | Path,
    *,
    title: str | None = None,
    special: bool = False,
    overwrite: bool = False,
    findings: Sequence[Finding] = (),
    small: bool = False,
) -> Path:
    """Write one self-contained HTML file: figures, their controls, tables and provenance.

    Figures leave special tokens out of their means unless `special`. `findings`, such as that of
    `interp.calibrate`, get a section each at the end. With `small` the explorer in the page has
    rounded numbers and none of the untrained copy, which the page says. The file appears whole or
    not at all.
    Raises `BadInput` if it exists, unless `overwrite`, and if there is nothing to report.
    """
    path = Path(path)
    if not len(results):
        raise BadInput("there are no results to report")
    refuse_existing(path, overwrite=overwrite, folder=False)
    return write_text(
        path, report_html(results, title, special=special, findings=findings, small=small)
    )


def report_html(
    results: ResultsLike,
    title: str | None = None,
    *,
    special: bool = False,
    findings: Sequence[Finding] = (),
    small: bool = False,
) -> str:
    """The page as text."""
    more = [
        found.section(f"finding-{i}", found.name.replace("_", " ").capitalize(), found.question)
        for i, found in enumerate(findings, 1)
    ]
    found = her_comparison(results)
    own = sections_of(results, special, found)
    sections = _numbered([*own, *more])
    title = title or title_of(results)
    explorer, said = _explorer(results, title, found, small)
    blocks = [block for section in sections for block in section.blocks]
    return fill(
        "report.html.j2",
        title=title,
        lead=_lead(results),
        measured=measured(results),
        notes=[*caveats(results), *(note for found in findings for note in found.notes), *said],
        sections=sections,
        provenance=flat(results.provenance, skip=("token_ids", "notes", "texts")),
        libraries=libraries(blocks),
        explorer=explorer,
    )


def _explorer(
    results: ResultsLike, title: str, found: Comparison | None, small: bool
) -> tuple[ExplorerParts | None, list[str]]:
    """The explorer in the page and notes on it; None where no tokens were read."""
    if not explorable(results):
        return None, []
    payload = explorer_payload(results, title, found)
    if not small:
        return parts_of(payload), []
    return parts_of(made_small(payload)), [note_of(payload)]


def _numbered(sections: list[Section]) -> list[Section]:
    start, out = 0, []
    for section in sections:
        blocks = numbered(section.blocks, start)
        start += sum(len(block.choices) for block in blocks)
        out.append(replace(section, blocks=blocks))
    return out


def _model(results: ResultsLike) -> Mapping[str, Any]:
    model: Mapping[str, Any] = results.provenance.get("model", {})
    return model


def _lead(results: ResultsLike) -> str:
    names = [name.replace("_", " ") for name in results]
    listed = ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else names[0]
    return f"{listed[:1].upper()}{listed[1:]} over {_counted(results)}."


def _counted(results: ResultsLike) -> str:
    """Numbers of prompts and tokens that were read, or that there were none.

    A corpus run counts its documents and keeps no token of them in a table of tokens.
    """
    given, tokens = results.provenance.get("prompts", {}), results.tokens
    known = tokens["prompt"].nunique() if "prompt" in tokens else 0
    documents = given.get("documents")
    counted = int(given.get("count", known) if documents is None else documents)
    read = int(given.get("tokens", 0)) or len(tokens)
    if not read:
        return "no prompts: only the weights were read"
    noun = "prompt" if documents is None else "document"
    told = results.provenance.get(GENERATION, {})
    if texts := told.get("texts"):
        counts = told.get("counts", {})  # of a corpus, which has only its first texts here
        counted = int(counts.get("texts", counted))
        of_them = int(counts.get("documents", len({text["given"] for text in texts})))
        of = f"{of_them:,} {noun}{'s' * (of_them != 1)}"
        return f"{counted:,} text{'s' * (counted != 1)} of {of}, {read:,} tokens"
    return f"{counted:,} {noun}{'s' * (counted != 1)}, {read:,} tokens"


def measured(results: ResultsLike) -> list[tuple[str, str]]:
    """Model, weights, prompts, labels and control, for the head of the page."""
    model, prompts = _model(results), results.provenance.get("prompts", {})
    blocks = " + ".join(str(n) for n in model.get("n_layers", []))
    shape = f"{blocks} blocks, d_model {model['d_model']}" if "d_model" in model else ""
    architecture = f"({model['architecture']})" if model.get("architecture") else ""
    tokens = results.tokens
    special = int(tokens["special"].astype(bool).sum()) if "special" in tokens else 0
    massive = int(tokens["massive"].eq(True).sum()) if "massive" in tokens else 0
    fed = _counted(results).removeprefix("no prompts: ")
    if len(tokens):
        fed += f", of which {special - massive:,} special"
    fed += f" and {massive:,} first ones with a massive norm, left out as BOS is" * (massive > 0)
    pairs = [
        ("Model", " ".join(str(p) for p in (model.get("name", "unknown"), architecture) if p)),
        ("Shape", shape),
        ("Weights", f"{model['dtype']}, {model['basis']} basis" if "basis" in model else ""),
        ("Prompts", fed),
        ("Source", str(prompts.get("source", ""))),
        ("Labels", _labels(results)),
        ("Untrained copy", CONTROLS.get(str(results.provenance.get("control", "")), NO_CONTROL)),
    ]
    return [(name, value) for name, value in pairs if value]


def _labels(results: ResultsLike) -> str:
    parts = []
    for name in next(iter(results.values())).labels:
        counts = results.tokens[name].value_counts()
        if counts.empty:
            continue
        listed = ", ".join(f"{k} {n:,}" for k, n in list(counts.items())[:4] if str(k))
        more = f", … {len(counts) - 4} more" if len(counts) > 4 else ""
        parts.append(f"{name} ({listed}{more})")
    return "; ".join(parts)


def caveats(results: ResultsLike) -> list[str]:
    """Every note of the run, once."""
    notes = [note for result in results.values() for note in result.notes]
    notes += results.provenance.get("prompts", {}).get("notes", [])
    return list(dict.fromkeys(notes))
