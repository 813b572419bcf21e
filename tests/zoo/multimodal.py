"""Text through models that can also see or hear; their other towers must not be taken for it."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

from zoo.decoders import BLOCK_NORMS_OUTPUT, GEMMA4_HEADS, PER_LAYER_INPUTS, SLIDING, WIDE_HEADS
from zoo.entry import SPECIAL_IDS, TINY, VOCAB, Entry, build_hf, hf
from zoo.mixers import GATED_DELTA

PICTURE = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
PATCHES = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "out_hidden_size": 24,
}
PICTURE_WITHOUT_SIZE = {key: value for key, value in PICTURE.items() if key != "image_size"}
GEMMA = {**TINY, **SLIDING, **WIDE_HEADS}
MULTI_AXIS = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "mrope_section": [1, 1, 1],
}
UNUSED_IDS = {"image_token_id": VOCAB - 1, "video_token_id": VOCAB - 2}

OTHER_TOWERS = "a vision tower with blocks of its own, unused with text"

GEMMA3N = {
    "text_config": {
        **GEMMA,
        "intermediate_size": [40, 40, 40, 40],
        "vocab_size_per_layer_input": VOCAB,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        "final_logit_softcapping": 3.0,
    },
    "vision_config": {"hidden_size": 16},
    "audio_config": {"hidden_size": 16, "vocab_size": 4},
}


def build_gemma3n() -> Any:
    """Gemma-3n without its towers: the one for pictures needs a library of backbones."""
    from transformers.models.gemma3n import modeling_gemma3n

    make = modeling_gemma3n.AutoModel.from_config

    def text_only(config: Any, **kwargs: Any) -> torch.nn.Module:
        return make(config, **kwargs) if "text" in config.model_type else torch.nn.Identity()

    architecture = "Gemma3nForConditionalGeneration"
    with mock.patch.object(modeling_gemma3n.AutoModel, "from_config", text_only):
        model = build_hf(architecture, SPECIAL_IDS, GEMMA3N, seed="gemma3n")
    model.config.architectures = [architecture]
    return model


ENTRIES: list[Entry] = [
    hf(
        "llava",
        "LlavaForConditionalGeneration",
        tiny=False,
        text_config={"model_type": "llama", **TINY, "head_dim": 6},
        vision_config={"model_type": "clip_vision_model", **PICTURE, "projection_dim": 16},
        image_token_index=VOCAB - 1,
        kind="multimodal",
        fast=True,
        notes=OTHER_TOWERS,
    ),
    hf(
        "mistral3",
        "Mistral3ForConditionalGeneration",
        tiny=False,
        text_config={"model_type": "mistral", **TINY, **WIDE_HEADS},
        vision_config={"model_type": "pixtral", **PICTURE, "head_dim": 8},
        image_token_index=VOCAB - 1,
        kind="multimodal",
    ),
    hf(
        "idefics3",
        "Idefics3ForConditionalGeneration",
        tiny=False,
        text_config={"model_type": "llama", **TINY, "head_dim": 6},
        vision_config=PICTURE,
        image_token_id=VOCAB - 1,
        kind="multimodal",
        notes=OTHER_TOWERS,
    ),
    hf(
        "qwen2.5-vl",
        "Qwen2_5_VLForConditionalGeneration",
        tiny=False,
        text_config={**TINY, "rope_parameters": MULTI_AXIS},
        vision_config={**PATCHES, "fullatt_block_indexes": [1], "window_size": 8},
        **UNUSED_IDS,
        kind="multimodal",
        notes=OTHER_TOWERS,
    ),
    hf(
        "qwen3-vl",
        "Qwen3VLForConditionalGeneration",
        tiny=False,
        text_config={
            **TINY,
            **WIDE_HEADS,
            "rope_parameters": {**MULTI_AXIS, "mrope_section": [2, 1, 1]},
        },
        vision_config={**PATCHES, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        **UNUSED_IDS,
        kind="multimodal",
        notes=OTHER_TOWERS,
    ),
    hf(
        "qwen3.5-vl",
        "Qwen3_5ForConditionalGeneration",
        tiny=False,
        text_config={
            **TINY,
            **GATED_DELTA,
            "head_dim": 16,
            "rope_parameters": {
                **MULTI_AXIS,
                "partial_rotary_factor": 0.5,
                "mrope_section": [2, 1, 1],
            },
        },
        vision_config={**PATCHES, "num_position_embeddings": 16},
        **UNUSED_IDS,
        kind="multimodal",
        notes=OTHER_TOWERS,
    ),
    hf(
        "glm4v",
        "Glm4vForConditionalGeneration",
        tiny=False,
        text_config={
            **TINY,
            "hidden_size": 32,
            "rope_parameters": {**MULTI_AXIS, "partial_rotary_factor": 0.75},
        },
        vision_config={**PATCHES, "image_size": 8, "out_hidden_size": 32},
        **UNUSED_IDS,
        kind="multimodal",
        notes=BLOCK_NORMS_OUTPUT,
    ),
    hf(
        "muse-glimmer",
        "MuseGlimmerForConditionalGeneration",
        tiny=False,
        text_config={
            **GEMMA,
            "final_logit_softcapping": 3.0,
            "output_multiplier": 0.6,
            "qk_scale_factor": 1.5,
            "layer_rope_theta": [10000.0, 0, 10000.0, 0],
        },
        vision_config={
            **PICTURE_WITHOUT_SIZE,
            "patch_size": 4,
            "pos_emb_height": 4,
            "pos_emb_width": 4,
            "layer_types": ["window_attention", "full_attention"],
        },
        out_hidden_size=24,
        projector_hidden_size=16,
        **UNUSED_IDS,
        kind="multimodal",
        notes="logits are multiplied and soft-capped after the unembedding",
    ),
    hf(
        "gemma3-vision",
        "Gemma3ForConditionalGeneration",
        tiny=False,
        text_config={**GEMMA, "query_pre_attn_scalar": 6},
        vision_config={"model_type": "siglip_vision_model", **PICTURE},
        mm_tokens_per_image=4,
        boi_token_index=VOCAB - 3,
        eoi_token_index=VOCAB - 2,
        image_token_index=VOCAB - 1,
        kind="multimodal",
        notes=OTHER_TOWERS,
    ),
    hf(
        "gemma4-multimodal",
        "Gemma4ForConditionalGeneration",
        tiny=False,
        text_config={**PER_LAYER_INPUTS, **TINY, **SLIDING, "per_layer_config": GEMMA4_HEADS},
        kind="multimodal",
        notes="per-layer inputs and a layer scalar",
    ),
    hf(
        "gemma4-unified",
        "Gemma4UnifiedForConditionalGeneration",
        tiny=False,
        text_config={**GEMMA, "final_logit_softcapping": 3.0, "per_layer_config": GEMMA4_HEADS},
        kind="multimodal",
        notes="a layer scalar",
    ),
    Entry(
        "gemma3n",
        "Gemma3nForConditionalGeneration",
        build_gemma3n,
        kind="multimodal",
        fast=True,
        notes="four streams stacked as [4, batch, pos, d_model] at the block's own hooks",
    ),
]
