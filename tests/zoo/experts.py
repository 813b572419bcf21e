"""Causal models whose feed-forward layer is a mixture of experts."""

from __future__ import annotations

from zoo.decoders import BLOCK_NORMS_OUTPUT, LATENT, MULTIPLIERS, SLIDING, WIDE_HEADS
from zoo.entry import hf

LOCAL = {"num_local_experts": 4, "num_experts_per_tok": 2}
GLOBAL = {"num_experts": 4, "num_experts_per_tok": 2}
SHARED = {**GLOBAL, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
ROUTED = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "routed_scaling_factor": 1.5,
}
GROUPED = {**ROUTED, "n_group": 2, "topk_group": 1}
FIRST_DENSE = {"first_k_dense_replace": 1}  # the first block has an ordinary feed-forward
INDEXED = {
    "index_topk": 4,
    "index_head_dim": 8,
    "index_n_heads": 8,
}  # with few heads, scores tie at 0

ENTRIES = [
    hf("mixtral", "MixtralForCausalLM", **LOCAL, fast=True),
    hf("phimoe", "PhimoeForCausalLM", **LOCAL, listed_as="PhiMoEForCausalLM"),
    hf("qwen2-moe", "Qwen2MoeForCausalLM", **SHARED),
    hf("qwen3-moe", "Qwen3MoeForCausalLM", **WIDE_HEADS, **GLOBAL, moe_intermediate_size=16),
    hf("olmoe", "OlmoeForCausalLM", **GLOBAL),
    hf("flex-olmo", "FlexOlmoForCausalLM", **GLOBAL, notes=BLOCK_NORMS_OUTPUT),
    hf("granite-moe", "GraniteMoeForCausalLM", **LOCAL, **MULTIPLIERS),
    hf("deepseek-v2", "DeepseekV2ForCausalLM", **LATENT, **ROUTED, **FIRST_DENSE),
    hf("deepseek-v3", "DeepseekV3ForCausalLM", **LATENT, **GROUPED, **FIRST_DENSE),
    hf(
        "deepseek-v4",
        "DeepseekV4ForCausalLM",
        num_key_value_heads=1,
        head_dim=8,
        q_lora_rank=12,
        partial_rotary_factor=0.5,
        o_groups=2,
        o_lora_rank=6,
        hc_mult=4,
        hc_sinkhorn_iters=3,
        compress_rates={"compressed_sparse_attention": 2, "heavily_compressed_attention": 4},
        layer_types=[
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
        ],
        mlp_layer_types=["moe", "moe", "moe"],
        sliding_window=4,
        **INDEXED,
        **ROUTED,
        fast=True,
        notes="four residual streams side by side: block hooks carry [batch, pos, 4, d_model]",
    ),
    hf(
        "gpt-oss",
        "GptOssForCausalLM",
        **SLIDING,
        **WIDE_HEADS,
        **LOCAL,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        fast=True,
        notes="attention sinks: rows of the pattern do not sum to 1",
    ),
    hf(
        "ernie4.5-moe",
        "Ernie4_5_MoeForCausalLM",
        moe_k=2,
        moe_num_experts=4,
        moe_num_shared_experts=1,
        moe_intermediate_size=16,
        moe_layer_start_index=1,
        moe_layer_end_index=2,
    ),
    hf("minimax-m2", "MiniMaxM2ForCausalLM", **WIDE_HEADS, **LOCAL),
    hf("glm4-moe", "Glm4MoeForCausalLM", **ROUTED, **FIRST_DENSE),
    hf(
        "glm4-moe-lite",
        "Glm4MoeLiteForCausalLM",
        **LATENT,
        **ROUTED,
        mlp_layer_types=["dense", "sparse", "sparse"],
    ),
    hf(
        "glm-moe-dsa",
        "GlmMoeDsaForCausalLM",
        **LATENT,
        **ROUTED,
        **INDEXED,
        mlp_layer_types=["dense", "sparse", "sparse"],
    ),
    hf(
        "llama4",
        "Llama4ForCausalLM",
        **WIDE_HEADS,
        **LOCAL,
        num_hidden_layers=4,
        intermediate_size_mlp=40,
        interleave_moe_layer_step=2,
        attention_chunk_size=8,
        no_rope_layers=[1, 1, 1, 0],
        pad_token_id=None,
    ),
    hf(
        "afmoe",
        "AfmoeForCausalLM",
        **SLIDING,
        **WIDE_HEADS,
        **GLOBAL,
        num_dense_layers=1,
        num_shared_experts=1,
        moe_intermediate_size=16,
        mup_enabled=True,
        notes=BLOCK_NORMS_OUTPUT,
    ),
    hf("jetmoe", "JetMoeForCausalLM", **LOCAL, kv_channels=6),
    hf(
        "laguna",
        "LagunaForCausalLM",
        **SLIDING,
        **WIDE_HEADS,
        **SHARED,
        num_attention_heads_per_layer=[4, 4, 4, 4],
        mlp_layer_types=["dense", "sparse", "sparse", "sparse"],
    ),
]
