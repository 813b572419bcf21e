"""Models with an encoder: bidirectional alone, or followed by a decoder."""

from __future__ import annotations

from zoo.decoders import SLIDING, WIDE_HEADS
from zoo.entry import SPECIAL_IDS, TINY, hf

PAIR = {"kind": "encoder-decoder", "tiny": False}
T5 = {
    **PAIR,
    "d_model": 24,
    "d_kv": 6,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": 0,
}
BART = {
    **PAIR,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "scale_embedding": True,
}
GEMMA = {
    **TINY,
    **SLIDING,
    **WIDE_HEADS,
    "query_pre_attn_scalar": 6,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}
SMALL_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}

ALONE = [
    hf("bert", "BertForMaskedLM", kind="encoder", fast=True),
    hf("bert-causal", "BertLMHeadModel", is_decoder=True),
    hf("roberta", "RobertaForMaskedLM", kind="encoder"),
]

PAIRS = [
    hf("t5", "T5ForConditionalGeneration", **T5, fast=True),
    hf(
        "t5-gated",
        "T5ForConditionalGeneration",
        **T5,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    ),
    hf("mt5", "MT5ForConditionalGeneration", **T5, feed_forward_proj="gated-gelu"),
    hf("longt5", "LongT5ForConditionalGeneration", **T5, local_radius=3, global_block_size=4),
    hf(
        "switch",
        "SwitchTransformersForConditionalGeneration",
        **T5,
        num_experts=4,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        expert_capacity=64,
    ),
    hf("bart", "BartForConditionalGeneration", **BART, fast=True),
    hf("mbart", "MBartForConditionalGeneration", **BART),
    hf("m2m100", "M2M100ForConditionalGeneration", **BART),
    hf("marian", "MarianMTModel", **BART),
    hf("pegasus", "PegasusForConditionalGeneration", **BART),
    hf("blenderbot", "BlenderbotForConditionalGeneration", **BART),
    hf(
        "led",
        "LEDForConditionalGeneration",
        **{
            key: value
            for key, value in BART.items()
            if key not in ("max_position_embeddings", "scale_embedding")
        },
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
        attention_window=[4, 4, 4],
        notes="the encoder's stream is padded to a multiple of the window; patterns only pass "
        "their hooks when attentions are asked for, as `run_with_cache` does",
    ),
    hf(
        "t5gemma",
        "T5GemmaForConditionalGeneration",
        **PAIR,
        encoder=GEMMA,
        decoder={**GEMMA, "cross_attention_hidden_size": 24},
        decoder_start_token_id=1,
        fast=True,
    ),
    hf(
        "t5gemma2",
        "T5Gemma2ForConditionalGeneration",
        **PAIR,
        encoder={
            "text_config": GEMMA,
            "vision_config": SMALL_VISION,
            "mm_tokens_per_image": 4,
            "boi_token_index": 110,
            "eoi_token_index": 111,
            "image_token_index": 112,
            **SPECIAL_IDS,
        },
        decoder=GEMMA,
        eoi_token_index=111,
        image_token_index=112,
        decoder_start_token_id=1,
    ),
]

ENTRIES = [*ALONE, *PAIRS]
