"""The pictures of the explorer: `python docs/explorer_pictures.py RUN [OUT]`.

RUN is a folder that `interp run` wrote with rotation, path_length, logit_lens, attention and
trajectory, for a target word and with a control. Each view becomes a picture as a Chromium shows
it; OUT is docs/images/explorer unless given.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import urllib.parse
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


def pictures(run: Path, out: Path) -> list[Path]:
    """Writes a picture per view; returns their paths."""
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
        browser.close()
    return found


def _picture(context: Any, page: Path, view: str, more: dict[str, Any], out: Path) -> Path:
    words = urllib.parse.urlencode({"view": view, **more})
    tab = context.new_page()
    tab.goto(f"{page.as_uri()}#explorer?{words}")
    tab.locator(f"[data-view={view}]").first.wait_for()
    tab.wait_for_timeout(600)
    path = out / f"{view}.png"
    tab.screenshot(path=str(path))
    tab.close()
    return path


def _selection(results: Any) -> dict[str, Any]:
    """The shortest prompt with attention maps, its target word and the token before it."""
    kept = {p for items in results["attention"].examples("pattern").values() for p in items}
    tokens = results.tokens[results.tokens["prompt"].isin(kept)]
    prompt = tokens.groupby("prompt").size().idxmin()
    chosen = tokens[(tokens["prompt"] == prompt) & tokens["role"].isin(["previous", "target"])]
    return {"p": prompt, "t": ",".join(map(str, chosen["position"].head(2))), "s": 3}


if __name__ == "__main__":
    pictures(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else IMAGES)
