"""Causal models whose blocks are attention and a dense feed-forward layer."""

from __future__ import annotations

from zoo.entry import hf

GPT2 = {
    "tiny": False,
    "n_positions": 64,
    "n_embd": 24,
    "n_layer": 3,
    "n_head": 4,
}
"""The names of the fields in GPT-2 and what was derived from its code."""

OPT = {
    "ffn_dim": 40,
    "word_embed_proj_dim": 24,
    "activation_function": "relu",
}

ROTARY = {"rope_type": "default", "rope_theta": 10000.0}

LEARNED_POSITIONS = [
    hf("gpt2", "GPT2LMHeadModel", fast=True, **GPT2),
    hf("gpt-bigcode", "GPTBigCodeForCausalLM", **GPT2, notes="multi-query"),
    hf(
        "gpt-neo",
        "GPTNeoForCausalLM",
        tiny=False,
        hidden_size=24,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=4,
        max_position_embeddings=64,
        notes="alternating local attention of 4 tokens",
    ),
    hf("opt", "OPTForCausalLM", **OPT),
    hf(
        "opt-350m",
        "OPTForCausalLM",
        fast=True,
        **{**OPT, "word_embed_proj_dim": 16},
        do_layer_norm_before=False,
        notes="post-norm, embeddings narrower than the stream (project_in and project_out)",
    ),
    hf(
        "openai-gpt",
        "OpenAIGPTLMHeadModel",
        fast=True,
        **GPT2,
        notes="post-norm; the block returns a list, so the hook at its end never fires",
    ),
    hf(
        "xglm",
        "XGLMForCausalLM",
        tiny=False,
        d_model=24,
        ffn_dim=40,
        num_layers=3,
        attention_heads=4,
        max_position_embeddings=64,
        notes="sinusoidal positions without a hook",
    ),
]

PARALLEL = [
    hf("gpt-j", "GPTJForCausalLM", fast=True, **GPT2, rotary_dim=4),
    hf("pythia", "GPTNeoXForCausalLM", fast=True, use_parallel_residual=True),
    hf("gpt-neox-sequential", "GPTNeoXForCausalLM", use_parallel_residual=False),
]

ALIBI = [
    hf("bloom", "BloomForCausalLM", fast=True, tiny=False, hidden_size=24, n_layer=3, n_head=4),
]

ROTARY_RMS = [
    hf("llama", "LlamaForCausalLM", fast=True),
]

SANDWICH = [
    hf(
        "gemma2",
        "Gemma2ForCausalLM",
        fast=True,
        head_dim=8,
        query_pre_attn_scalar=6,
        sliding_window=4,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=3.0,
    ),
]

SCALED = [
    hf(
        "granite",
        "GraniteForCausalLM",
        fast=True,
        embedding_multiplier=1.7,
        residual_multiplier=0.6,
        attention_multiplier=0.3,
        logits_scaling=2.5,
    ),
]

ENTRIES = [*LEARNED_POSITIONS, *PARALLEL, *ALIBI, *ROTARY_RMS, *SANDWICH, *SCALED]
