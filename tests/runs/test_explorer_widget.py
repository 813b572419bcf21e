"""The explorer as an anywidget: the same bundle, and a clear word where anywidget is not there."""

from __future__ import annotations

import builtins
import importlib.util

import pytest
from render_data import make_results

from interp.errors import InterpError


def test_without_anywidget_the_line_that_installs_it_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "anywidget":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InterpError, match=r"pip install 'interp-stream\[notebook\]'"):
        make_results().explore().widget()


@pytest.mark.skipif(importlib.util.find_spec("anywidget") is None, reason="needs anywidget")
def test_the_widget_carries_the_payload_and_the_bundle():
    page = make_results().explore()
    shown = page.widget()
    assert shown.payload == page.payload
    assert page.parts.plain_script in shown._esm
    assert "window.interpExplorer.mount(box, model.get(" in shown._esm
    assert shown._css == page.parts.style
    assert shown.get_state()["payload"] == page.payload
