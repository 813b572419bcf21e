"""The embedded models, the language and the process that they learnt, and the training itself."""

from pathlib import Path

from interp.demo.language import (
    Choice,
    Document,
    Word,
    choices,
    demo_documents,
    generate,
    her_documents,
)

__all__ = [
    "MODELS",
    "Choice",
    "Document",
    "Word",
    "choices",
    "demo_documents",
    "generate",
    "her_documents",
    "model_path",
]

MODELS: dict[str, Path] = {
    name: Path(__file__).parent / "models" / name for name in ("demo", "demo-llama", "mess3")
}


def model_path(name: str) -> Path:
    """The folder of an embedded model."""
    if name not in MODELS:
        raise KeyError(f"no embedded model {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name]
