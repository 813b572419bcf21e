"""Provenance of a table: model, basis, analyses, prompts and versions."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from interp._arrays import Ints
from interp.contract.analysis import Analysis
from interp.errors import BadInput
from interp.models.anatomy import Anatomy, StackAnatomy
from interp.models.answers import token_texts
from interp.models.forward import wrapped_model
from interp.models.origin import origin_of_weights
from interp.models.tested_versions import untested
from interp.prompts.prompts import AIMED, Prompts

ANSWERS = "answers"  # of the provenance: the targets and second answers that were given
FOLLOWING = "the next token"
OF_ANSWERS = ("targets", "against")

# ---- provenance ------------------------------------------------------------------------------


def provenance_of(
    bridge: Any, anatomy: Anatomy, analyses: Mapping[str, Analysis], prompts: Prompts | None
) -> dict[str, Any]:
    """Everything needed to know what a table is of, as JSON values."""
    config = getattr(wrapped_model(bridge), "config", None)
    out: dict[str, Any] = {
        "model": {
            "name": anatomy.model,
            "architecture": anatomy.architecture,
            "revision": getattr(config, "_commit_hash", None),
            "dtype": str(anatomy.dtype).removeprefix("torch."),
            "device": str(getattr(getattr(bridge, "cfg", None), "device", None)),
            "basis": anatomy.basis,
            "n_layers": [s.n_blocks for s in anatomy.stacks],
            "d_model": anatomy.d_model,
        },
        "readout": anatomy.readout
        and {
            "path": anatomy.readout.path,
            "identity_error": anatomy.readout.error,
        },
        "closing_error": {s.name or "blocks": finite(s.closing) for s in anatomy.stacks},
        "first_token": {s.name or "blocks": _first_token(s) for s in anatomy.stacks},
        "analyses": {name: analysis.parameters() for name, analysis in analyses.items()},
        "versions": versions(),
        "untested_versions": untested(),
        "loaded_from": getattr(config, "_name_or_path", None) or None,
    }
    if origin := origin_of_weights(bridge):
        out["weights_origin"] = {k: v for k, v in origin.items() if k != "files"}
    if prompts is not None:
        out["prompts"] = {
            "source": prompts.source,
            "count": len(prompts),
            "tokens": int(sum(len(t) for t in prompts.tokens)),
            "sha256": prompts.fingerprint(),
            "token_ids": [t.tolist() for t in prompts.tokens],
            "notes": list(getattr(prompts, "notes", ())),
        }
        answers = (rows and _answer(rows) for rows in (prompts.targets, prompts.contrasts))
        out |= answers_given(bridge, *answers)
    return out


def answers_given(bridge: Any, targets: Any, against: Any) -> dict[str, Any]:
    """The entry of the answers of a run: their ids, and the text of one for all prompts."""
    given = {
        name: x for name, x in zip(OF_ANSWERS, (targets, against), strict=True) if x is not None
    }
    texts = [token_texts(bridge, x) for x in given.values()]
    named = {str(number): text for known in texts for number, text in known.items()}
    return {ANSWERS: given | ({"texts": named} if named else {})} if given else {}


def _answer(rows: Sequence[Ints]) -> Any:
    """One token id, or one per prompt, or one per position, -1 for none."""
    each = [set(row.tolist()) for row in rows]
    if any(len(ids) != 1 or -1 in ids for ids in each):
        return [row.tolist() for row in rows]
    ids = [int(row[0]) for row in rows]
    return ids[0] if len(set(ids)) == 1 else ids


def answers_in(results: Any) -> dict[str, Any]:
    """The `targets` and `against` of a run, as `run` takes them; of a table alone none.

    Raises `BadInput` for a folder of a version that did not keep the answers of its run.
    """
    provenance = getattr(results, "provenance", None)
    if not isinstance(provenance, Mapping):
        return {}
    notes = provenance.get("prompts", {}).get("notes", ())
    if ANSWERS not in provenance and any(AIMED in note for note in notes):
        raise BadInput(
            "these results have targets= of their own, and their folder, which an earlier version "
            "wrote, does not hold them; repeat the run"
        )
    return {name: x for name, x in provenance.get(ANSWERS, {}).items() if name in OF_ANSWERS}


def predicted_by(results: Any) -> str:
    """The token that the outcomes of a run are of, in words: the next one, or the answer given.

    `results` may also be a table or tables by name, of which nothing is known: the next token.
    """
    provenance = getattr(results, "provenance", None)
    if not isinstance(provenance, Mapping):
        return FOLLOWING
    answers = provenance.get(ANSWERS, {})
    target = answers.get("targets")
    if isinstance(target, str):  # as the runs of a corpus hold it
        return repr(target)
    if isinstance(target, int):
        text = answers.get("texts", {}).get(str(target))
        return f"token {target}" if text is None else repr(text)
    notes = provenance.get("prompts", {}).get("notes", ())
    aimed = target is not None or any(AIMED in note for note in notes)
    return "the targets given" if aimed else FOLLOWING


def finite(values: Sequence[float]) -> list[float | None]:
    return [v if np.isfinite(v) else None for v in values]


def versions() -> dict[str, str]:
    """Versions of what computed the tables."""
    out = {"python": platform.python_version(), "platform": sys.platform}
    for package in (
        "interp-stream",
        "torch",
        "transformer-lens",
        "transformers",
        "numpy",
        "pandas",
    ):
        try:
            out[package] = version(package)
        except PackageNotFoundError:
            out[package] = "not installed as a package"
    return out


def _first_token(stack: StackAnatomy) -> dict[str, Any]:
    """Norm of the first token against the others', and whether it is left out as massive."""
    without, with_bos = finite([stack.first_token, stack.bos_token])
    return {"without_bos": without, "with_bos": with_bos, "massive": stack.massive_first}
