"""What the tests in real browsers share: the browsers, and a page that notes what it does.

Firefox is driven as Mozilla or a distribution ships it, over WebDriver BiDi (playwright's channel
`moz-firefox`); nothing is downloaded.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FULL = os.environ.get("INTERP_FULL") == "1"
PLAYWRIGHT = importlib.util.find_spec("playwright") is not None
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
]
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


def _first(*names: str) -> str:
    return next(filter(None, map(shutil.which, names)), "")


PROGRAMS = {
    "chromium": _first("chromium", "chromium-browser", "google-chrome"),
    "firefox": _first("firefox-esr", "firefox"),
}
WEBGL = "Boolean(document.createElement('canvas').getContext('webgl'))"
NO_WEBGL = {
    "chromium": {"args": [*CHROMIUM_FLAGS, "--disable-3d-apis"]},
    "firefox": {"firefox_user_prefs": {"webgl.disabled": True}},
}

DARK = {
    "chromium": {},
    "firefox": {"firefox_user_prefs": {"layout.css.prefers-color-scheme.content-override": 0}},
}

in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not PLAYWRIGHT, reason="needs playwright (extra `test`)"),
]


def _reason(name: str) -> str:
    """Why a browser is not driven here; "" if it is."""
    if not PROGRAMS[name]:
        return f"needs a {name.capitalize()} on the PATH"
    # One browser by default: two take twice as long, and rarely differ.
    return "" if name == "chromium" or FULL else "a second browser; set INTERP_FULL=1"


def each_browser() -> list:
    """Names of browsers as parameters; one that is not driven is skipped, and says so."""
    return [
        pytest.param(name, marks=pytest.mark.skipif(bool(_reason(name)), reason=_reason(name)))
        for name in PROGRAMS
    ]


@functools.cache
def _kept() -> tempfile.TemporaryDirectory:
    """Where browsers save; it goes with the process."""
    return tempfile.TemporaryDirectory(prefix="downloads-")


def launch(playwright, name: str, **options: object):
    """A running browser of that name."""
    options |= {"downloads_path": _kept().name, "timeout": WAIT}
    if name == "chromium":
        options.setdefault("args", CHROMIUM_FLAGS)
        return playwright.chromium.launch(executable_path=PROGRAMS[name], **options)
    program = PROGRAMS[name]
    return _obeying(
        playwright.firefox.launch(executable_path=program, channel="moz-firefox", **options)
    )


def _obeying(firefox):
    """Skips where playwright is too new for the Firefox: it needs every command that it sends."""
    from playwright.sync_api import Error

    try:
        firefox.new_context().close()
    except Error as error:
        firefox.close()
        if "unknown command" not in str(error):
            raise
        command = str(error).partition("(")[2].partition(")")[0]
        pytest.skip(
            f"this playwright sends {command}, which Firefox {firefox.version} does not know; "
            "playwright 1.64 does without it"
        )
    return firefox


# What the policy of a page forbids is told by an event in every browser, in the console by some.
NOTICE = """addEventListener("securitypolicyviolation", e =>
    console.error(`policy: ${e.effectiveDirective} ${e.blockedURI}`));"""


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
        self.firefox = browser.browser_type.name == "firefox"
        viewport = {"width": width, "height": height}
        self.context = browser.new_context(offline=offline, viewport=viewport, **options)
        self.context.set_default_timeout(WAIT)
        self.context.add_init_script(NOTICE)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda r: self.requests.append(r.url))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("dialog", lambda d: self.errors.append(f"dialog {d.message}"))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.where = where if isinstance(where, str) else where.as_uri()
        self.page.goto(self.where)

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

    def saved(self, button) -> tuple[str, bytes]:
        """Name and content of the file that a click saves."""
        if self.firefox:
            return self._saved_by_firefox(button)
        with self.page.expect_download(timeout=WAIT) as waiting:
            button.click()
        return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()

    def _saved_by_firefox(self, button) -> tuple[str, bytes]:
        """Firefox tells playwright of no download, and saves under the name that was suggested."""
        folder = Path(_kept().name)
        before = set(folder.iterdir())
        button.click()
        deadline = time.monotonic() + WAIT / 1000
        while True:
            new = set(folder.iterdir()) - before
            if len(new) == 1 and (found := new.pop()).stat().st_size and found.suffix != ".part":
                break
            assert time.monotonic() < deadline, f"nothing was saved: {new}"
            self.page.wait_for_timeout(30)
        data = found.read_bytes()
        found.unlink()
        return found.name, data

    def asked(self) -> set[str]:
        """What was requested besides the page itself and what it holds in itself."""
        own = self.where.split("#")[0]
        asked = {u.split("#")[0] for u in self.requests if not u.startswith(("data:", "blob:"))}
        return asked - {own}


def theme_can_change(browser) -> None:
    """Skip where the browser cannot be told of another theme of the system while it runs."""
    if browser.browser_type.name == "firefox":
        pytest.skip("Firefox is told of the theme when it starts; see the tests in the dark")


def until(page, expression: str) -> None:
    """Wait until an expression is true; playwright's own way needs a policy that allows eval."""
    eventually(page, lambda: page.evaluate(expression), expression)


def eventually(page, true: Callable[[], object], what: object = None) -> None:
    """Wait until a function of what is on the page gives something true."""
    deadline = time.monotonic() + WAIT / 1000
    while not true():
        assert time.monotonic() < deadline, what
        page.wait_for_timeout(30)
