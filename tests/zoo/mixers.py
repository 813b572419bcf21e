"""State-space, linear-attention and convolution models, and their hybrids with attention."""

from __future__ import annotations

from zoo.entry import hf

MAMBA = {
    "tiny": False,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "state_size": 5,
    "conv_kernel": 3,
    "time_step_rank": 4,
}

GATED_DELTA = {
    "head_dim": 8,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention"],
}

ENTRIES = [
    hf("mamba", "MambaForCausalLM", fast=True, **MAMBA),
    hf(
        "qwen3-next",
        "Qwen3NextForCausalLM",
        fast=True,
        **GATED_DELTA,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        shared_expert_intermediate_size=16,
    ),
]
