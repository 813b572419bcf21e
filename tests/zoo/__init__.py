"""Tiny random models of many architectures, each with a plain Hugging Face model to compare with.

`ZOO[name].build()` makes the plain model, `boot(entry)` the TransformerBridge around another copy
of it, `reference(entry, tokens)` what the plain model computes. Nothing here needs a network, and
nothing here knows the library under test.
"""

from zoo import decoders, encoders, experts, mixers
from zoo.boot import boot, random_tokens, reference, tiny_tokenizer
from zoo.entry import VOCAB, Entry

ZOO: dict[str, Entry] = {
    entry.name: entry
    for module in (decoders, experts, mixers, encoders)
    for entry in module.ENTRIES
}

__all__ = ["VOCAB", "ZOO", "Entry", "boot", "random_tokens", "reference", "tiny_tokenizer"]
