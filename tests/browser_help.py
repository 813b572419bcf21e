"""What the tests in a real browser share: a Chromium, and a page that notes what it does."""

from __future__ import annotations

import importlib.util
import shutil
import time
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
PLAYWRIGHT = importlib.util.find_spec("playwright") is not None
WHY = "needs playwright (extra `test`)" if CHROMIUM else "needs a Chromium on the PATH"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
WAIT = 30_000  # milliseconds; machines that run tests are slow and shared

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

    def asked(self) -> set[str]:
        """What was requested besides the page itself and what it holds in itself."""
        return {u.split("#")[0] for u in self.requests[1:] if not u.startswith(("data:", "blob:"))}


def until(page, expression: str) -> None:
    """Wait until an expression is true; playwright's own way needs a policy that allows eval."""
    deadline = time.monotonic() + WAIT / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        page.wait_for_timeout(30)
