"""Causal models whose feed-forward layer is a mixture of experts."""

from __future__ import annotations

from zoo.entry import hf

ENTRIES = [
    hf("mixtral", "MixtralForCausalLM", fast=True, num_local_experts=4, num_experts_per_tok=2),
]
