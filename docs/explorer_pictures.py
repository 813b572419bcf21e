"""The pictures of the explorer: `python docs/explorer_pictures.py RUN [OUT]`.

RUN is a folder that `interp run` wrote with rotation, path_length, logit_lens, attention and
trajectory, for a target word and with a control. Each view becomes a picture as a Chromium shows
it, and a strip follows one token through all of them; OUT is docs/images/explorer unless given.
"""

from __future__ import annotations

import base64
import html
import io
import shutil
import sys
import tempfile
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import interp

IMAGES = Path(__file__).parent / "images" / "explorer"
SIZE = {"width": 1280, "height": 860}
VIEWS: dict[str, dict[str, Any]] = {
    "layers": {"c": 1},
    "lens": {},
    "trajectory": {},
    "attention": {"c": 0},
    "compare": {"mode": "groups"},
}

# ---- the strip ---------------------------------------------------------------------------------

CELL = {"width": 380, "height": 388}
"""Pixels of the page in each picture of the strip: narrow, so that its letters stay legible."""
SHARPNESS = 1.5  # pixels of the strip per pixel of the page
MOST_BYTES = 400_000


@dataclass(frozen=True)
class Step:
    """A picture of the strip: its caption, the part of the page, and what is selected there."""

    title: str
    text: str
    part: str
    selection: dict[str, Any] = field(default_factory=dict)
    middle: bool = False
    """Whether the part stands in the middle; else it begins at the upper edge."""


WAY = {"view": "trajectory", "r": "0-7", "s": 7}  # the last block moves some tokens out of sight
GROUPS = {"view": "compare", "mode": "groups"}
STEPS = (
    Step("Choose a token", "coloured by any measure at any layer", ".ix-list"),
    Step("Layers", "over the band of all tokens; grey: untrained", ".ix-brush", {"c": 1}, True),
    Step("Lens", "what the model would say at each layer", ".ix-lens", {"view": "lens"}),
    Step("Trajectory", "its way, and the two that go farthest", ".ix-row", WAY, True),
    Step("Attention", "where a head looks", ".ix-map", {"view": "attention"}, True),
    Step("Compare", "with 95 % intervals and the run's tests", ".ix-sides", GROUPS),
)
PLAIN = """
.ix-save, .ix-hint, .ix-note, .ix-numbers, .ix-marks, .ix-tests, .ix-tabs, .ix-first ~ .ix-sentence,
.ix-family, [data-view=compare] .ix-figure ~ .ix-figure, [data-view=layers] .ix-controls,
.ix-head-card, [data-view=attention] .ix-map-legend,
[data-view=text] ~ div .ix-panel-head { display: none !important }
[data-view=text] { padding-bottom: 100px !important }
"""
STRIP = """<!doctype html><meta charset="utf-8"><style>
body { margin: 0; background: #fff; color: #1f2328; width: max-content;
  font: 15px/20px Inter, "Segoe UI", "Helvetica Neue", "DejaVu Sans", Arial, sans-serif }
main { display: grid; grid-template-columns: repeat(3, %(width)spx); gap: 26px 22px; padding: 12px }
figure { margin: 0 }
figcaption { display: grid; grid-template-columns: 34px 1fr; margin-bottom: 9px; color: #4b545e }
b { font-size: 18px; line-height: 24px; color: #1f2328 }
i { grid-row: span 2; width: 26px; height: 26px; border-radius: 13px; background: #0a5c99;
  color: #fff; font: bold 15px/26px "DejaVu Sans", Arial, sans-serif; text-align: center }
img { display: block; width: 100%%; border: 1px solid #d5dae0; border-radius: 8px }
</style><main>%(figures)s</main>"""


def pictures(run: Path, out: Path) -> list[Path]:
    """Writes a picture per view and the strip; returns their paths."""
    from playwright.sync_api import sync_playwright

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        results: Any = interp.load(run)
        page = results.explore().save(Path(folder) / "explorer.html")
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        context = browser.new_context(viewport=SIZE, offline=True, reduced_motion="reduce")
        chosen = _selection(results)
        found = [_picture(context, page, view, chosen | more, out) for view, more in VIEWS.items()]
        narrow = browser.new_context(
            viewport={"width": CELL["width"], "height": 2400},
            device_scale_factor=SHARPNESS,
            offline=True,
            reduced_motion="reduce",
        )
        found.append(_strip(narrow, page, chosen, _far(results, chosen["p"]), out / "strip.png"))
        browser.close()
    return found


def _picture(context: Any, page: Path, view: str, more: dict[str, Any], out: Path) -> Path:
    tab = _opened(context, page, {"view": view, **more})
    path = out / f"{view}.png"
    tab.screenshot(path=str(path))
    tab.close()
    return path


def _opened(context: Any, page: Path, selection: dict[str, Any]) -> Any:
    tab = context.new_page()
    tab.goto(f"{page.as_uri()}#explorer?{urllib.parse.urlencode(selection)}")
    tab.locator(f"[data-view={selection['view']}]").first.wait_for()
    tab.wait_for_timeout(600)
    return tab


def _strip(context: Any, page: Path, chosen: dict[str, Any], far: str, path: Path) -> Path:
    """All steps in one picture; the second of the chosen tokens is the one that is followed."""
    figures = []
    target = chosen["t"].split(",")[-1]
    for number, step in enumerate(STEPS, 1):
        tokens = f"{far},{target}" if step.selection is WAY else target
        selection = {"view": "layers", **chosen, "t": tokens, **step.selection}
        image = base64.b64encode(_part(context, page, selection, step)).decode("ascii")
        text = html.escape(step.text)
        caption = f"<i>{number}</i><b>{html.escape(step.title)}</b><span>{text}</span>"
        figures.append(
            f"<figure><figcaption>{caption}</figcaption>"
            f'<img src="data:image/png;base64,{image}"></figure>'
        )
    tab = context.new_page()
    tab.set_content(STRIP % {"width": CELL["width"], "figures": "".join(figures)})
    path.write_bytes(_small(tab.locator("main").screenshot()))
    tab.close()
    return path


def _part(context: Any, page: Path, selection: dict[str, Any], step: Step) -> bytes:
    """One part of the page from its upper edge, in the size of a picture of the strip."""
    tab = _opened(context, page, selection)
    tab.add_style_tag(content=PLAIN)
    tab.wait_for_timeout(300)
    box = tab.locator(step.part).first.bounding_box()
    above = max(8, (CELL["height"] - box["height"]) / 2) if step.middle else 8
    shot: bytes = tab.screenshot(clip={"x": 0, "y": box["y"] - above, **CELL})
    tab.close()
    return shot


def _small(png: bytes) -> bytes:
    """The picture in 256 colours; refused if it is too large for a README."""
    from PIL import Image

    out = io.BytesIO()
    # The usual median cut merges colours that few pixels have, such as that of a thin line.
    whole = Image.open(io.BytesIO(png)).convert("RGB")
    few = whole.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(out, "PNG", optimize=True)
    if out.tell() > MOST_BYTES:
        raise ValueError(f"the strip has {out.tell()} bytes; allowed are {MOST_BYTES}")
    return out.getvalue()


def _selection(results: Any) -> dict[str, Any]:
    """The shortest prompt with attention maps, its target word and the token before it."""
    kept = {p for items in results["attention"].examples("pattern").values() for p in items}
    tokens = results.tokens[results.tokens["prompt"].isin(kept)]
    prompt = tokens.groupby("prompt").size().idxmin()
    chosen = tokens[(tokens["prompt"] == prompt) & tokens["role"].isin(["previous", "target"])]
    return {"p": prompt, "t": ",".join(map(str, chosen["position"].head(2))), "s": 3}


def _far(results: Any, prompt: int) -> str:
    """The two tokens of a prompt that are farthest from where they began, on the first two axes."""
    frame = results["trajectory"].frame
    own = frame[(frame["prompt"] == prompt) & ~frame["special"]].set_index(["position", "layer"])
    ways = own[["pc1", "pc2"]]
    gone = ways.xs(WAY["s"], level="layer") - ways.xs(0, level="layer")
    return ",".join(map(str, gone.pow(2).sum(axis=1).nlargest(2).index))


if __name__ == "__main__":
    pictures(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else IMAGES)
