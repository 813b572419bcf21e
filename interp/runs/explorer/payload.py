"""The payload of the explorer: everything of a run that the page shows, as JSON values.

Knows results and their provenance; nothing of HTML. The numbers are those of the tables, in
float32. A run with more than fits is shown by a sample of its prompts, and the page says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from interp.render.page import inert_json
from interp.runs.explorer.attention import attention_of_page, pattern_name
from interp.runs.explorer.lens import lens_of_page
from interp.runs.explorer.measures import cells_per_token, measures_of
from interp.runs.explorer.shown import Shown, kept_prompts, shown_of
from interp.runs.explorer.ways import trajectory_of_page
from interp.runs.report.lens_examples import PROBS, TOKENS
from interp.runs.report.views import ResultsLike, name_of
from interp.stats.table import is_summary

SCHEMA = 1
MOST_NUMBERS = 2_500_000
"""Numbers of measures on the page; beyond, a sample of the prompts is shown."""
SAMPLED = "sampled"  # of the provenance of results that are a sample already
UNTRAINED = "untrained copy"
NO_COPY = (
    "Rows of a corpus come without a control. interp.run_corpus(interp.random_copy(model), …, "
    "out='OUT/control'), where OUT is the folder of this run, adds it: the means of an untrained "
    "copy, or with keep='tokens' its rows"
)
COPY_SUMMED = (
    "It was run with keep='summary', so that Layers has its means; interp.run_corpus(…, "
    "keep='tokens') into its folder gives its rows"
)
ADDS = {
    "lens": ("logit_lens", "lens", "logit_lens.examples=8", "the first 8 prompts"),
    "trajectory": ("trajectory", "ways", "trajectory.tokens=1024", "the first 1,024 tokens"),
    "attention": ("attention", "maps", "attention.maps=8", "the first 8 prompts"),
}
"""For each view the analysis that it shows, what that keeps, and the setting that keeps more."""


def payload_of(
    results: ResultsLike,
    title: str | None = None,
    *,
    tests: Sequence[Mapping[str, Any]] = (),
    story: Sequence[Mapping[str, str]] | None = None,
    most: int = MOST_NUMBERS,
) -> dict[str, Any]:
    """The payload of a run.

    Args:
        results: of a run, in memory or loaded.
        title: of the page; by default the model's name in a few words.
        tests: sentences of comparisons: `measure` and `text`, and what was compared.
        story: the run's main findings, `title` and `text` each.
        most: number of values of measures, above which a sample of the prompts is shown.
    """
    shown = _shown(results, most)
    control = getattr(results, "control", None)
    name = _control_name(results) if control is not None else None
    views = {
        "lens": lens_of_page(results, shown, fill=SAMPLED in results.provenance),
        "trajectory": trajectory_of_page(results, shown),
        "attention": attention_of_page(results, shown),
    }
    return {
        "schema": SCHEMA,
        "title": title or title_of(results),
        "model": _model_name(results),
        "provenance": provenance_line(results),
        "sampled": _sampled(results, shown),
        "control_name": name,
        "prompts": shown.prompts(),
        "tokens": shown.tokens(),
        "measures": measures_of(results, shown, name),
        **views,
        "tests": [dict(test) for test in tests],
        "story": None if story is None else [dict(part) for part in story],
        "missing": missing(results, views),
        "more": more(results),
        "live": None,  # a server writes its address here
    }


def payload_json(payload: Mapping[str, Any]) -> str:
    """The payload as JSON that can stand in a script element of a page."""
    text = json.dumps(payload, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return inert_json(text)


def title_of(results: ResultsLike) -> str:
    """The page's title: the model by its name, never by the folder that it lies in."""
    return f"Inside {_model_name(results)}"


def _model(results: ResultsLike) -> Mapping[str, Any]:
    model: Mapping[str, Any] = results.provenance.get("model", {})
    return model


def _model_name(results: ResultsLike) -> str:
    return name_of(str(_model(results).get("name", "a model")))


def _control_name(results: ResultsLike) -> str:
    kind = str(results.provenance.get("control", "random-init"))
    return UNTRAINED if kind == "random-init" else kind


def provenance_line(results: ResultsLike) -> str:
    """Model, weights, prompts and versions in one line, for exports."""
    model, prompts = _model(results), results.provenance.get("prompts", {})
    versions = results.provenance.get("versions", {})
    source = str(prompts.get("source", ""))
    digest = str(prompts.get("sha256", ""))[:12]
    parts = [
        _model_name(results),
        ", ".join(str(model[k]) for k in ("dtype", "basis") if model.get(k)),
        f"prompts: {source}" if source else "",
        f"SHA-256 {digest}" if digest else "",
        *(f"{k} {versions[k]}" for k in ("interp-stream", "transformer-lens") if k in versions),
    ]
    return " · ".join(" ".join(part.split()) for part in parts if part)


# ---- what is shown ---------------------------------------------------------------------------


def _shown(results: ResultsLike, most: int) -> Shown:
    each = max(1, cells_per_token(results))
    prompts = results.provenance.get("prompts", {})
    of = prompts.get("count") if any(is_summary(r.frame) for r in results.values()) else None
    names = [TOKENS, PROBS, *{pattern_name(r) for r in results.values()} - {""}]
    return shown_of(results.tokens, most // each, kept_prompts(results, names), of)


def _sampled(results: ResultsLike, shown: Shown) -> dict[str, int] | None:
    """Numbers of prompts that are shown and that there are; None if all are shown."""
    own = results.provenance.get(SAMPLED)
    n = shown.frame["prompt"].nunique()
    if own:
        return {"shown": int(n), "of": int(own["of"])}
    return {"shown": int(n), "of": int(shown.of)} if n < shown.of else None


def missing(results: ResultsLike, views: Mapping[str, Any]) -> dict[str, str]:
    """For every view without data the command that adds it, in a sentence."""
    out = {}
    ran = set(results)
    for view, (analysis, what, setting, first) in ADDS.items():
        if views[view] is not None and not _lacks_maps(view, views[view]):
            continue
        if analysis in ran:
            out[view] = (
                f"The run kept no {what} of these prompts; interp run … --set {setting} keeps "
                f"those of {first}."
            )
        else:
            names = ",".join([*ran, analysis])
            out[view] = f"interp run … --analyses {names} adds it."
    if SAMPLED in results.provenance and (lack := _lacks_control(results)):
        out["control"] = lack
    return out


def _lacks_control(results: ResultsLike) -> str:
    """What a sample of rows lacks of a control, and what gives it; "" if nothing."""
    control = getattr(results, "control", None)
    if control is None:
        return NO_COPY
    return COPY_SUMMED if any(is_summary(r.frame) for r in control.values()) else ""


def _lacks_maps(view: str, told: Any) -> bool:
    return view == "attention" and not told["patterns"]


def more(results: ResultsLike) -> dict[str, str]:
    """For every view that has data of some prompts only, the setting that keeps more."""
    return {
        view: f"interp run … --set {setting} keeps the {what} of {first}."
        for view, (analysis, what, setting, first) in ADDS.items()
        if analysis in set(results)
    }
