"""Models with an encoder: bidirectional alone, or followed by a decoder."""

from __future__ import annotations

from zoo.entry import hf

T5 = {
    "kind": "encoder-decoder",
    "tiny": False,
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
    "kind": "encoder-decoder",
    "tiny": False,
    "d_model": 24,
    "encoder_layers": 3,
    "decoder_layers": 3,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
}

ENTRIES = [
    hf("bert", "BertForMaskedLM", kind="encoder", fast=True),
    hf("t5", "T5ForConditionalGeneration", fast=True, **T5),
    hf("bart", "BartForConditionalGeneration", fast=True, **BART),
]
