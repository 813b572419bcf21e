"""Tiny random models of many architectures, each with a plain Hugging Face model to compare with.

`ZOO[name].build()` makes the plain model, `boot(entry)` the TransformerBridge around another copy
of it, `reference(entry, tokens)` what the plain model computes. Nothing here needs a network, and
nothing here knows the library under test.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

from zoo import decoders, encoders, experts, mixers, multimodal, native
from zoo.boot import boot, random_tokens, reference, tiny_tokenizer
from zoo.entry import VOCAB, Entry
from zoo.refused import REFUSED

ZOO: dict[str, Entry] = {
    entry.name: entry
    for module in (decoders, experts, mixers, encoders, multimodal, native)
    for entry in module.ENTRIES
}


@cache
def facts() -> dict[str, Any]:
    """Name -> what `tests/zoo_survey.py` measured; the keys are explained there."""
    return json.loads(Path(__file__).with_name("facts.json").read_text())


__all__ = [
    "REFUSED",
    "VOCAB",
    "ZOO",
    "Entry",
    "boot",
    "facts",
    "random_tokens",
    "reference",
    "tiny_tokenizer",
]
