"""Provenance of a table: model, basis, analyses, prompts and versions."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from interp.contract.analysis import Analysis
from interp.models.anatomy import Anatomy, StackAnatomy
from interp.models.forward import wrapped_model
from interp.models.origin import origin_of_weights
from interp.models.tested_versions import untested
from interp.prompts.prompts import Prompts

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
    return out


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
