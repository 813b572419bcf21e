"""What the tests in a real browser share: a Chromium, and a page that notes what it does."""

from __future__ import annotations

import importlib.util
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PLAYWRIGHT = importlib.util.find_spec("playwright") is not None
WHY = "needs playwright (extra `test`)" if CHROMIUM else "needs a Chromium on the PATH"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
WAIT = 300_000  # milliseconds, which are over only where something does not come at all

# Frames in a row in which nothing changes and nothing is scrolled: a page draws what it has to draw
# within a few of them, however long one takes.
STILL = """limit => new Promise((done, fail) => {
    const late = setTimeout(() => fail(new Error("the page does not come to rest")), limit);
    let frames = 0, place = "";
    const watch = new MutationObserver(() => { frames = 0; });
    const all = { attributes: true, characterData: true, childList: true, subtree: true };
    watch.observe(document, all);
    const next = () => {
        const now = `${scrollX} ${scrollY}`;
        frames = now === place ? frames + 1 : 0;
        place = now;
        if (frames < 4) return requestAnimationFrame(next);
        watch.disconnect();
        clearTimeout(late);
        done();
    };
    requestAnimationFrame(next);
})"""
FOLLOWED = """([address, limit]) => new Promise((done, fail) => {
    if (location.hash === address) return done();
    const late = setTimeout(() => fail(new Error(`${address} is not followed`)), limit);
    addEventListener("hashchange", () => { clearTimeout(late); done(); }, { once: true });
    location.hash = address;
})"""

in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and PLAYWRIGHT), reason=WHY),
]


class Visit:
    """A page with what it asked for and complained about."""

    def __init__(
        self,
        browser,
        where: Path | str,
        width: int = 1400,
        height: int = 1000,
        offline: bool = True,
        **options: object,
    ) -> None:
        viewport = {"width": width, "height": height}
        self.context = browser.new_context(offline=offline, viewport=viewport, **options)
        self.context.set_default_timeout(WAIT)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("dialog", lambda d: self.errors.append(f"dialog {d.message}"))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.goto(where if isinstance(where, str) else where.as_uri())

    def draw_all(self) -> None:
        """Bring every figure near the screen, and wait until it is drawn."""
        for box in self.page.query_selector_all(".canvas:visible"):
            box.scroll_into_view_if_needed()
            kind = box.get_attribute("data-kind")
            inner = ".main-svg, canvas" if kind == "plotly" else "canvas"
            box.wait_for_selector(inner, timeout=WAIT, state="attached")
        self.settle()

    def settle(self) -> None:
        """Wait until the page has drawn what was asked of it."""
        self.page.evaluate(STILL, WAIT)

    def follow(self, address: str) -> None:
        """Go to another place of the page, by its `#address`."""
        self.page.evaluate(FOLLOWED, [address, WAIT])
        self.settle()

    def asked(self) -> set[str]:
        """What was requested besides the page itself and what it holds in itself."""
        return {u.split("#")[0] for u in self.requests[1:] if not u.startswith(("data:", "blob:"))}


def until(page, expression: str) -> None:
    """Wait until an expression is true; playwright's own way needs a policy that allows eval."""
    eventually(page, lambda: page.evaluate(expression), expression)


def eventually(page, true: Callable[[], object], what: object = None) -> None:
    """Wait until a function of what is on the page gives something true."""
    deadline = time.monotonic() + WAIT / 1000
    while not true():
        assert time.monotonic() < deadline, what
        page.wait_for_timeout(30)
