"""Docstrings as the site shows them: doctests in code blocks, sections as paragraphs or lists.

A griffe extension, named in mkdocs.yml; it changes what Markdown would misread.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension

# From a prompt to the next blank line; in Markdown `>>>` is a quotation three deep.
DOCTEST = re.compile(r"^([ ]*)>>> .*(?:\n(?![ ]*$).*)*", re.MULTILINE)
# A section of one line, which Markdown would join to the line before it.
SHORT = re.compile(r"\n*^(Returns|Raises|Sources?): ", re.MULTILINE)
# A section that has another name in Google's style.
OTHER = re.compile(r"^Class attributes:$", re.MULTILINE)


def readable(text: str) -> str:
    """The text of a docstring for a Markdown page.

    >>> readable("One.\\nRaises: `BadInput`.\\n\\n>>> 1 + 1\\n2")
    'One.\\n\\n**Raises:** `BadInput`.\\n\\n```pycon\\n>>> 1 + 1\\n2\\n```'
    """
    text = DOCTEST.sub(lambda m: f"{m[1]}```pycon\n{m[0]}\n{m[1]}```", text)
    text = SHORT.sub(r"\n\n**\1:** ", text)
    return OTHER.sub("Attributes:", text)


class Docstrings(Extension):
    """Makes every docstring readable."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Change the docstring of one module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = readable(obj.docstring.value)
