"""The explorer as an anywidget: the same bundle, mounted in the page of a notebook.

The extra `notebook` brings anywidget, which is imported when a widget is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interp.errors import InterpError
from interp.render.page import ExplorerParts

RENDER = """
export default {
  render({ model, el }) {
    const box = document.createElement("div");
    el.append(box);
    window.interpExplorer.mount(box, model.get("payload"));
  },
};
"""


def widget_of(payload: Mapping[str, Any], parts: ExplorerParts) -> Any:
    """A widget that shows a payload. Raises `InterpError` without anywidget."""
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise InterpError(
            "widgets need anywidget: pip install 'interp-stream[notebook]'; without it the last "
            "line of a cell shows the same page in a frame"
        ) from error

    class ExplorerWidget(anywidget.AnyWidget):
        """A payload and the script that draws it."""

        _esm = f"{parts.plain_script}\n{RENDER}"
        _css = parts.style
        payload = traitlets.Dict().tag(sync=True)

    return ExplorerWidget(payload=dict(payload))
