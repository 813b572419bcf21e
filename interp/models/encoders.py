"""BERT-type encoders without a head, such as sentence encoders, as bridges.

TransformerLens knows `BertForMaskedLM` alone, whose head a sentence encoder does not have: it would
be drawn at random, and with it every logit. Here the encoder is bridged as it is, without logits.
Knows the adapters of TransformerLens; nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ENCODER = "BertModel"
_HEAD = ("mlm_head", "unembed", "ln_final")


@contextmanager
def bridged() -> Iterator[None]:
    """Lets TransformerLens know the encoder inside the block."""
    from transformer_lens.factories import architecture_adapter_factory as factory

    if ENCODER in factory.SUPPORTED_ARCHITECTURES:  # a later version knows it by itself
        yield
        return
    adapter = _adapter()
    known = factory.ArchitectureAdapterFactory._adapters
    factory.SUPPORTED_ARCHITECTURES[ENCODER] = known[ENCODER] = adapter
    try:
        yield
    finally:
        del factory.SUPPORTED_ARCHITECTURES[ENCODER], known[ENCODER]


def class_for(architecture: str, others: Callable[[str], Any]) -> Any:
    """The class of transformers that loads an architecture; `others` knows the rest."""
    from transformers import AutoModel

    return AutoModel if architecture == ENCODER else others(architecture)


def _adapter() -> Any:
    """TransformerLens' adapter for BERT without the head, and without the name of the encoder."""
    from transformer_lens.model_bridge.supported_architectures.bert import BertArchitectureAdapter

    class BertEncoderAdapter(BertArchitectureAdapter):
        def __init__(self, cfg: Any) -> None:
            super().__init__(cfg)
            for name in _HEAD:
                self.component_mapping.pop(name)
            for component in self.component_mapping.values():
                component.name = component.name.removeprefix("bert.")

        def prepare_model(self, hf_model: Any) -> None:
            """Leave the mapping as it is: there is no head to look for."""

    return BertEncoderAdapter
