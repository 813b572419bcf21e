"""The README's picture of a run over the prompts "her": `python docs/her_picture.py RUN OUT.svg`.

RUN is a folder that `make english` or `interp demo` wrote. The figure is the one in its report.
"""

from __future__ import annotations

import sys
from pathlib import Path

import interp
from interp.render.draw import figure
from interp.render.export import save_figure
from interp.runs.report.sections import her_drawing


def picture(run: Path, path: Path) -> Path:
    """Draws target against previous token, per block, of a run; replaces the file."""
    results = interp.load(run)
    drawn = figure(her_drawing(results["rotation"], results["random_pairs"]))
    return save_figure(drawn, path, overwrite=True)


if __name__ == "__main__":
    picture(Path(sys.argv[1]), Path(sys.argv[2]))
