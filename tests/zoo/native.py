"""TransformerLens's own small models; no Hugging Face class is behind them."""

from __future__ import annotations

from typing import Any

from zoo.entry import VOCAB, Entry, randomise, seeded

SMALL = {
    "d_model": 24,
    "d_head": 6,
    "n_heads": 4,
    "n_layers": 3,
    "n_ctx": 64,
    "d_vocab": VOCAB,
    "d_mlp": 40,
    "act_fn": "gelu_new",
    "normalization_type": "LN",
    "init_mode": "gpt2",
    "seed": 0,
}


def native_config(**fields: Any) -> Any:
    """Configuration as `TransformerBridge.boot_native` takes it."""
    from transformer_lens.config import TransformerBridgeConfig

    return TransformerBridgeConfig(**{**SMALL, **fields})


def native(name: str, *, fast: bool = False, notes: str = "", **fields: Any) -> Entry:
    """Row for a model of TransformerLens's own; `fields` override `SMALL`."""

    def build() -> Any:
        from transformer_lens.model_bridge.sources.native import (
            NativeModel,
            initialize_native_model,
        )

        config = native_config(**fields)
        with seeded(name):
            model = NativeModel(config)
            initialize_native_model(model, config)
            randomise(model)
        return model.eval()

    return Entry(name, "TransformerLensNative", build, "native", fast, notes)


ENTRIES = [
    native("native", fast=True),
    native(
        "native-rotary",
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_dim=6,
        gated_mlp=True,
        act_fn="silu",
        n_key_value_heads=2,
        final_rms=True,
    ),
    native("native-attention-only", attn_only=True, fast=True),
    native("native-bidirectional", attention_dir="bidirectional", fast=True),
    native("native-soft-caps", attn_scores_soft_cap=5.0, output_logits_soft_cap=3.0),
    native("native-no-norm", normalization_type=None),
]
