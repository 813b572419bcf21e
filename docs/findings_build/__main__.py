"""Measure the findings and write the page: `python -m docs.findings_build`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import interp
from docs.build import save_picture
from docs.findings_build.page import FINDINGS, page
from docs.findings_build.parts import CONFIDENCE, plain
from docs.findings_build.sources import Sources

DOCS = Path(__file__).parents[1]
JSON = DOCS / "data" / "findings.json"
PAGE = DOCS / "findings.md"
PACKAGES = ("torch", "transformer-lens", "transformers")


def main() -> None:
    """Measure what is asked for, keep the numbers of the others, and write the page."""
    asked = _asked()
    numbers = json.loads(JSON.read_text(encoding="utf-8")) if JSON.is_file() else {}
    if not asked.page:
        _measure(asked.only or list(FINDINGS), asked.model, numbers)
    PAGE.write_text(page(numbers), encoding="utf-8")


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Write docs/findings.md.")
    parser.add_argument("--model", default="smollm2", help="as for interp.load_model")
    parser.add_argument("--only", nargs="*", choices=list(FINDINGS), help="measure these only")
    parser.add_argument("--page", action="store_true", help="write the page anew, measure nothing")
    return parser.parse_args()


def _measure(names: list[str], model: str, numbers: dict[str, Any]) -> None:
    sources = Sources(model)
    numbers["about"] = plain(_about(sources))
    for name in names:
        begun = time.monotonic()
        found = FINDINGS[name].measure(sources)
        numbers[name] = plain(found.numbers)
        # At once, so that a run that is interrupted keeps what it has measured.
        text = json.dumps(numbers, indent=1, ensure_ascii=False)
        JSON.write_text(text + "\n", encoding="utf-8")
        for picture, figure in found.figures.items():
            save_picture(figure, "findings", picture)
        sys.stderr.write(f"{name}: {time.monotonic() - begun:.0f} s\n")


def _about(sources: Sources) -> dict[str, Any]:
    cfg = sources.bridge.cfg
    origin = getattr(sources.bridge, "weights_origin", None) or {}
    return {
        "model": str(cfg.model_name),
        "origin": str(origin.get("package", "as named")),
        "rounded_to": list(origin.get("weights", {}).get("tensor_types", {})),
        "blocks": int(cfg.n_layers),
        "width": int(cfg.d_model),
        "confidence": CONFIDENCE,
        "versions": {"interp": interp.__version__} | {name: version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    main()
