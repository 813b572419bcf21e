"""A live page in a real browser: a typed prompt is run, streams in, and joins the others."""

from __future__ import annotations

import importlib.util
import threading

import pytest
from browser_help import WAIT, Visit, in_a_browser, until

import interp
from interp.runs.explorer.live.server import Server
from interp.runs.explorer.live.session import Session

SERVES = all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn"))
pytestmark = [
    *in_a_browser,
    pytest.mark.skipif(not SERVES, reason="needs starlette and uvicorn (extra live)"),
]
NUMBER = "(e, n) => { e.value = n; e.dispatchEvent(new Event('input', { bubbles: true })); }"
READY = "#interp-explorer [role=tab][data-tab=lens]"


@pytest.fixture(scope="module")
def session(browser):
    """A session of its own for each browser: prompts are numbered from the first one on."""
    assert browser.is_connected()
    names = ["rotation", "logit_lens", "attention", "trajectory"]
    return Session(interp.load_model("demo-llama"), names, prompt="Leo met her")


@pytest.fixture(scope="module")
def visit(session, browser):
    with Server(session) as server:
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            seen = Visit(browser, server.address, offline=False)
            seen.page.wait_for_selector(READY, timeout=WAIT)
            yield seen
            seen.context.close()
        finally:
            server.stop()
            thread.join(WAIT / 1000)
        assert not thread.is_alive()


def send(visit: Visit, prompt: str, new_tokens: int) -> None:
    form = visit.page.locator("form.ix-live")
    form.locator("[name=prompt]").fill(prompt)
    # Typed into a field of numbers of a driven Firefox, digits stand beside those that are there.
    form.locator("[name=new_tokens]").evaluate(NUMBER, str(new_tokens))
    form.locator("button[type=submit]").click()


def selected(visit: Visit, prompt: int) -> None:
    """Waits until a prompt is in the list and chosen."""
    chosen = visit.page.locator(f".ix-prompt[data-prompt='{prompt}'][aria-selected=true]")
    chosen.wait_for(timeout=WAIT)


def prompts(visit: Visit) -> str:
    return visit.page.locator("#interp-explorer").inner_text()


def test_a_typed_prompt_appears_among_the_others(visit, session):
    before = session.payload["prompts"]["id"]
    send(visit, "Mary was tired, so John told her", 0)
    selected(visit, len(before))
    assert session.payload["prompts"]["id"] == [*before, len(before)]
    visit.page.locator("[role=tab][data-tab=lens]").click()
    visit.page.locator("[data-lens-token]").first.wait_for(timeout=WAIT)
    assert "Mary" in prompts(visit)
    assert visit.errors == []


def test_a_continuation_streams_in(visit, session):
    before = len(session.payload["prompts"]["id"])
    send(visit, "The queen saw her dog and", 12)
    selected(visit, before)
    assert session.payload["tokens"]["generated"] is not None
    assert visit.errors == []


def test_a_refused_prompt_says_why_and_the_page_goes_on(visit, session):
    before = session.payload["prompts"]["id"]
    send(visit, "her " * 3000, 0)
    status = visit.page.locator(".ix-live-status")
    until(
        visit.page,
        "document.querySelector('.ix-live-status').textContent.includes('context')",
    )
    assert "context" in status.inner_text()
    assert session.payload["prompts"]["id"] == before


def test_the_page_speaks_to_its_own_server_only(visit, browser):
    hosts = {url.split("/")[2] for url in visit.requests if url.startswith("http")}
    assert len(hosts) == 1
    seen = Visit(browser, visit.requests[0], offline=False)
    refused = seen.page.evaluate(
        "fetch('http://127.0.0.1:9/').then(() => 'sent', error => error.name)"
    )
    assert refused == "TypeError"
    seen.context.close()
