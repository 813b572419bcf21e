"""The browsers that the tests drive tell what a page asks for and complains about.

A test that finds no request and no error on a page says something only if it would have seen one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from browser_help import WEBGL, Visit, in_a_browser, until

pytestmark = in_a_browser
PAGE = """<!doctype html><meta charset=utf-8><title>asks</title><link rel=icon href="data:,">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; img-src http://127.0.0.1:47391 data:">
<p>text</p>%s"""


def seen_of(browser, folder: Path, body: str) -> Visit:
    path = folder / "page.html"
    path.write_text(PAGE % body, encoding="utf-8")
    return Visit(browser, path)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<script>console.error('one complaint')</script>", "one complaint"),
        ("<script>setTimeout(() => { throw new Error('not caught'); })</script>", "not caught"),
        ("<script>Promise.reject(new Error('refused'))</script>", "refused"),
        ("<script>fetch('http://127.0.0.1:47391/x').catch(() => 0)</script>", "connect-src"),
        ("<script>try { eval('1') } catch { }</script>", "policy: script-src"),
    ],
    ids=["console", "thrown", "rejected", "fetch", "eval"],
)
def test_complaints_are_seen(browser, tmp_path, body, said):
    seen = seen_of(browser, tmp_path, body)
    for _ in range(100):
        if seen.errors:
            break
        seen.page.wait_for_timeout(30)
    assert any(said in error for error in seen.errors), seen.errors
    seen.context.close()


def test_a_request_is_seen(browser, tmp_path):
    seen = seen_of(browser, tmp_path, "<img src='http://127.0.0.1:47391/asked.png'>")
    until(seen.page, "document.images[0].complete")
    seen.page.wait_for_timeout(200)
    assert seen.asked() == {"http://127.0.0.1:47391/asked.png"}
    seen.context.close()


def test_a_page_that_asks_for_nothing_and_is_content_leaves_nothing(browser, tmp_path):
    seen = seen_of(browser, tmp_path, "<script>console.log('fine')</script>")
    seen.page.wait_for_timeout(200)
    assert seen.asked() == set()
    assert seen.errors == []
    seen.context.close()


def test_webgl_can_be_switched_off(without_webgl, tmp_path):
    seen = seen_of(without_webgl, tmp_path, "")
    assert not seen.page.evaluate(WEBGL)
    seen.context.close()
