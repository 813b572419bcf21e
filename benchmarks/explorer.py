"""How fast the explorer's page is in a browser: the first picture and the slowest interactions.

    python -m benchmarks.explorer                  # a section of docs/explorer.md, and its numbers

Two pages of 30 layers, with every default measure and its control: 64 prompts of 20 tokens, and one
prompt of 4,096. The models are narrow and random: a page depends on layers, heads and tokens alone.
Needs playwright and a Chromium; without them it says so and writes nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.startup import random_model

SHAPE = {"layers": 30, "width": 72, "inner": 144, "groups": 1, "vocab": 600, "positions": 4608}
MANY, LONG = "64 prompts of 20 tokens", "one prompt of 4,096 tokens"
# What a run keeps of a long prompt has no maps: their cells are limited whatever its length.
RUNS: dict[str, dict[str, Any]] = {
    MANY: {
        "lengths": [20] * 64,
        "heads": 9,
        "analyses": ["rotation", "path_length", "logit_lens", "attention", "trajectory"],
        "settings": {"logit_lens.examples": 64, "attention.maps": 8, "trajectory.tokens": 1280},
    },
    LONG: {
        "lengths": [4096],
        "heads": 2,
        "analyses": ["rotation", "path_length", "logit_lens", "trajectory"],
        "settings": {"logit_lens.examples": 1, "trajectory.tokens": 4096},
    },
}
VIEWS = ("layers", "lens", "trajectory", "attention", "compare")
KEYS = {
    "ArrowRight": "next token",
    "]": "next layer",
    "j": "next prompt",
    "c": "control on or off",
    "k": "prompt before",
    "[": "layer before",
}
FIRST, SLOWEST, STREAM = "first picture", "slowest interaction", "a token that streams in"
LIMITS = {FIRST: 1500.0, SLOWEST: 100.0, STREAM: 100.0}  # milliseconds
BEGIN, END = "<!-- python -m benchmarks.explorer -->", "<!-- end of what it writes -->"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
WAIT = 300_000  # milliseconds, which are over only where something does not come at all

# From the page's first byte to the second frame after the first token stands on it.
WATCH = """
new MutationObserver((_, seen) => {
  if (!document.querySelector(".ix-chip[data-token]")) return;
  seen.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.first = performance.now(); }));
}).observe(document, { childList: true, subtree: true });
"""
# From a key to the second frame after it.
PRESS = """async (key) => {
  const chip = document.querySelector('.ix-chip[tabindex="0"]') || document.body;
  const began = performance.now();
  chip.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  await new Promise((done) => setTimeout(done));
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return performance.now() - began;
}"""
# A prompt that grows by a token at a time, as a live page does while a model writes.
GROW = """async (tokens) => {
  const text = document.getElementById("interp-explorer-data").textContent;
  const payload = JSON.parse(text);
  const pack = (kind, array, shape) =>
    ({ dtype: kind, shape, data: btoa(String.fromCharCode(...new Uint8Array(array.buffer))) });
  const ones = (n) => new Float32Array(n).fill(1);
  const part = (n) => ({
    ...payload,
    prompts: { id: ["new"], start: pack("i4", Int32Array.of(0, n), [2]), labels: {} },
    tokens: {
      texts: [" new"], index: pack("i4", new Int32Array(n), [n]), special: null, word: null,
      generated: pack("u1", new Uint8Array(n).fill(1), [n]), labels: {},
    },
    measures: payload.measures.map((m) => ({
      ...m, values: pack("f4", ones(n * m.depth.length), [n, m.depth.length]), control: null,
    })),
    lens: null, trajectory: null, attention: null,
  });
  interpExplorer.add(part(3));
  const taken = [];
  for (let i = 0; i < tokens; i++) {
    await new Promise((done) => setTimeout(done, 60));
    const began = performance.now();
    interpExplorer.add({ ...part(1), continues: true });
    await new Promise((done) => setTimeout(done));
    await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
    taken.push(performance.now() - began);
  }
  return taken;
}"""


# ---- pages -----------------------------------------------------------------------------------


def page_of(name: str, folder: Path) -> Path:
    """The page of a run, measured by the library on a random model."""
    import interp

    asked = RUNS[name]
    model = random_model(folder / "model", {**SHAPE, "heads": asked["heads"]})
    choose = random.Random(0)
    texts = [[choose.randrange(1, SHAPE["vocab"]) for _ in range(n)] for n in asked["lengths"]]
    results = interp.run(
        model,
        texts,
        asked["analyses"],
        settings=asked["settings"],
        control="random-init",
        progress=False,
    )
    return results.explore(title=name).save(folder / "explorer.html")


def measured(page: Path, rounds: int, chromium: str) -> dict[str, Any]:
    """Milliseconds of everything that is measured on a page; lists have a number per round."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS, timeout=WAIT)
        options = {"viewport": {"width": 1400, "height": 1000}, "offline": True}
        first = [_first(browser.new_context(**options), page) for _ in range(rounds)]
        tab = _opened(browser.new_context(**options), page)
        pressed = {view: _pressed(tab, i, rounds) for i, view in enumerate(VIEWS, 1)}
        tab.evaluate(PRESS, "1")
        stream = tab.evaluate(GROW, 4 * rounds)
        version = browser.version
        browser.close()
    return {FIRST: first, "pressed": pressed, STREAM: stream, "chromium": version}


def _opened(context: Any, page: Path) -> Any:
    context.set_default_timeout(WAIT)
    tab = context.new_page()
    tab.add_init_script(WATCH)
    tab.goto(page.as_uri())
    while not tab.evaluate("window.first > 0"):
        tab.wait_for_timeout(50)
    tab.wait_for_timeout(1000)  # what the page prepares while a reader looks at it
    return tab


def _first(context: Any, page: Path) -> float:
    tab = _opened(context, page)
    took = float(tab.evaluate("window.first"))
    context.close()
    return took


def _pressed(tab: Any, view: int, rounds: int) -> dict[str, list[float]]:
    """What every key took in a view, and to open it by its number from the next one."""
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        tab.evaluate(PRESS, str(view % len(VIEWS) + 1))
        for key, name in {str(view): "open", **KEYS}.items():
            taken.setdefault(name, []).append(tab.evaluate(PRESS, key))
    return taken


# ---- what it says ----------------------------------------------------------------------------


def slowest(page: Mapping[str, Any]) -> tuple[float, str]:
    """The interaction with the largest median, and what it is."""
    every = [
        (median(took), f"{name}, {view}" if name != "open" else f"{view} opened")
        for view, keys in page["pressed"].items()
        for name, took in keys.items()
    ]
    return max(every)


def values(page: Mapping[str, Any]) -> dict[str, tuple[float, str]]:
    """The milliseconds of each limit, and what they are of."""
    return {
        FIRST: (median(page[FIRST]), ""),
        SLOWEST: slowest(page),
        STREAM: (median(page[STREAM]), "layers"),
    }


def section(found: Mapping[str, Any]) -> str:
    """What is written between the two marks in docs/explorer.md."""
    rows = ["| page | what | limit | measured | |", "|---|---|---|---|---|"]
    for name, page in found["pages"].items():
        for what, (took, of) in values(page).items():
            verdict = "met" if took <= LIMITS[what] else "**missed**"
            told = f"{what} ({of})" if of else what
            rows.append(
                f"| {name} | {told} | ≤ {LIMITS[what]:,.0f} ms | {took:,.0f} ms | {verdict} |"
            )
    sizes = ", ".join(f"{p['megabytes']:.1f} MB ({name})" for name, p in found["pages"].items())
    return "\n".join(
        [
            "",
            f"Medians of {found['rounds']} rounds in Chromium {found['chromium']}, "
            f"{found['cores']} cores, on {found['date']}; 30 layers, "
            "all default measures and a control. An interaction lasts from the key to the second "
            "frame after it, so that none is below 17 ms. The files have "
            f"{sizes}. All numbers are in `docs/data/explorer_speed.json`; "
            "`python -m benchmarks.explorer` measures them anew.",
            "",
            *rows,
            "",
        ]
    )


def write(found: Mapping[str, Any], out: Path) -> None:
    """Write the numbers, and the section into explorer.md of a folder.

    Raises `ValueError` where the page has no place for it.
    """
    (out / "data").mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    (out / "data" / "explorer_speed.json").write_text(f"{text}\n", encoding="utf-8")
    page = out / "explorer.md"
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} lacks the marks {BEGIN} and {END}, between which this writes")
    page.write_text(f"{before}{BEGIN}{section(found)}{END}{after}", encoding="utf-8")


def rounded(node: Any) -> Any:
    """Numbers to a tenth of a millisecond, wherever they stand."""
    if isinstance(node, float):
        return round(node, 1)
    if isinstance(node, dict):
        return {key: rounded(part) for key, part in node.items()}
    return [rounded(part) for part in node] if isinstance(node, list) else node


def lacking() -> str:
    """What is missing to measure; empty if nothing is."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright (extra `test`)"
    return "" if _chromium() else "a Chromium or Chrome on the PATH"


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both pages and write the section, or say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of every interaction")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder with explorer.md")
    options = parser.parse_args(arguments)
    if lack := lacking():
        print(f"not measured: the explorer's speed needs {lack}")
        return
    found: dict[str, Any] = {
        "date": datetime.now(UTC).date().isoformat(),
        "rounds": options.rounds,
        "cores": os.cpu_count(),
        "pages": {},
    }
    for name in RUNS:
        with tempfile.TemporaryDirectory() as folder:
            page = page_of(name, Path(folder))
            size = page.stat().st_size / 1e6
            told = measured(page, options.rounds, str(_chromium()))
        found["chromium"] = told.pop("chromium")
        found["pages"][name] = rounded(told | {"megabytes": size})
        print(name, {what: f"{took:.0f} ms {of}" for what, (took, of) in values(told).items()})
    write(found, options.out)


if __name__ == "__main__":
    main()
