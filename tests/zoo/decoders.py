"""Causal models whose blocks are attention and a dense feed-forward layer."""

from __future__ import annotations

from zoo.entry import hf

GPT2 = {"tiny": False, "n_positions": 64, "n_embd": 24, "n_layer": 3, "n_head": 4}
OPT = {"ffn_dim": 40, "word_embed_proj_dim": 24, "activation_function": "relu"}
FALCON = {
    "tiny": False,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "ffn_hidden_size": 40,
    "max_position_embeddings": 64,
    "bias": True,
}
WIDE_HEADS = {"head_dim": 8}  # heads that together are wider than the stream
SLIDING = {
    "num_hidden_layers": 4,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "q_lora_rank": 12,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
}
MULTIPLIERS = {
    "embedding_multiplier": 1.7,
    "residual_multiplier": 0.6,
    "attention_multiplier": 0.3,
    "logits_scaling": 2.5,
}
SOFT_CAPS = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
POST_NORM = "post-norm: the stream itself is normalised after each sub-layer"
BLOCK_NORMS_OUTPUT = "norms sit on the outputs of attention and feed-forward"

LEARNED_POSITIONS = [
    hf("gpt2", "GPT2LMHeadModel", **GPT2, fast=True),
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
        notes="every second block sees 4 tokens only",
    ),
    hf("opt", "OPTForCausalLM", **OPT),
    hf(
        "opt-350m",
        "OPTForCausalLM",
        **{**OPT, "word_embed_proj_dim": 16},
        do_layer_norm_before=False,
        fast=True,
        notes=f"{POST_NORM}; embeddings are narrower than it (project_in, project_out)",
    ),
    hf(
        "openai-gpt",
        "OpenAIGPTLMHeadModel",
        **GPT2,
        fast=True,
        notes=f"{POST_NORM}; the block returns a list, so the hook at its end never fires; "
        "with any attention_mask, even of ones, the bridge loses causality",
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
        notes="sinusoidal positions, without a hook",
    ),
]

ALIBI = [
    hf("bloom", "BloomForCausalLM", tiny=False, hidden_size=24, n_layer=3, n_head=4, fast=True),
    hf("mpt", "MptForCausalLM", tiny=False, d_model=24, n_layers=3, n_heads=4, max_seq_len=64),
]

PARALLEL = [
    hf("gpt-j", "GPTJForCausalLM", **GPT2, rotary_dim=4, fast=True),
    hf("codegen", "CodeGenForCausalLM", **GPT2, rotary_dim=4),
    hf("pythia", "GPTNeoXForCausalLM", use_parallel_residual=True),
    hf("falcon-7b", "FalconForCausalLM", **FALCON, notes="multi-query"),
    hf("phi", "PhiForCausalLM", hidden_size=32, num_key_value_heads=4),
    hf("phi-grouped", "PhiForCausalLM", hidden_size=32),
    hf("cohere", "CohereForCausalLM", logit_scale=0.3, use_qk_norm=True),
    hf("cohere2", "Cohere2ForCausalLM", **SLIDING, **WIDE_HEADS, logit_scale=0.3),
    hf("stablelm-parallel", "StableLmForCausalLM", hidden_size=32, use_parallel_residual=True),
]

SEQUENTIAL_LAYER_NORM = [
    hf("gpt-neox-sequential", "GPTNeoXForCausalLM", use_parallel_residual=False),
    hf(
        "falcon-rw",
        "FalconForCausalLM",
        **FALCON,
        alibi=True,
        multi_query=False,
        parallel_attn=False,
    ),
    hf("stablelm", "StableLmForCausalLM", hidden_size=32, use_qkv_bias=True),
    hf("starcoder2", "Starcoder2ForCausalLM", sliding_window=4),
    hf("olmo", "OlmoForCausalLM", clip_qkv=0.8, notes="norms without weights"),
    hf("nemotron", "NemotronForCausalLM"),
    hf("jais2", "Jais2ForCausalLM", head_dim=6),
    hf(
        "modernbert-decoder",
        "ModernBertDecoderForCausalLM",
        num_hidden_layers=4,
        layer_types=SLIDING["layer_types"],
        local_attention=8,
        cls_token_id=1,
        sep_token_id=2,
        notes="no norm before the first attention; prediction head between norm and unembedding",
    ),
]

ROTARY_RMS = [
    hf("llama", "LlamaForCausalLM", fast=True),
    hf("llama-tied", "LlamaForCausalLM", tie_word_embeddings=True, attention_bias=True),
    hf("mistral", "MistralForCausalLM", **WIDE_HEADS, sliding_window=4),
    hf(
        "ministral3",
        "Ministral3ForCausalLM",
        **WIDE_HEADS,
        rope_parameters={**YARN, "llama_4_scaling_beta": 0.1},
    ),
    hf("qwen2", "Qwen2ForCausalLM"),
    hf("qwen3", "Qwen3ForCausalLM", **WIDE_HEADS),
    hf("phi3", "Phi3ForCausalLM"),
    hf("gemma", "GemmaForCausalLM", **WIDE_HEADS, notes="embedding scaled by sqrt(d_model)"),
    hf("smollm3", "SmolLM3ForCausalLM", no_rope_layers=[1, 0, 1]),
    hf("glm", "GlmForCausalLM", **WIDE_HEADS),
    hf("arcee", "ArceeForCausalLM", head_dim=6),
    hf("apertus", "ApertusForCausalLM", rope_parameters=LLAMA3_ROPE),
    hf("ernie4.5", "Ernie4_5ForCausalLM", **WIDE_HEADS, use_bias=True),
    hf("hunyuan", "HunYuanDenseV1ForCausalLM", **WIDE_HEADS),
    hf("seed-oss", "SeedOssForCausalLM", **WIDE_HEADS),
    hf("bitnet", "BitNetForCausalLM", notes="a norm inside attention and inside the feed-forward"),
    hf(
        "nanochat",
        "NanoChatForCausalLM",
        final_logit_softcapping=3.0,
        notes="norms without weights; the embedding goes through the final norm's module",
    ),
    hf("youtu", "YoutuForCausalLM", **LATENT),
    hf("vaultgemma", "VaultGemmaForCausalLM", **SLIDING, **WIDE_HEADS, **SOFT_CAPS),
]

OUTPUT_NORMS = [
    hf(
        "gemma2",
        "Gemma2ForCausalLM",
        **SLIDING,
        **WIDE_HEADS,
        **SOFT_CAPS,
        query_pre_attn_scalar=6,
        fast=True,
        notes=BLOCK_NORMS_OUTPUT,
    ),
    hf(
        "gemma3",
        "Gemma3ForCausalLM",
        **SLIDING,
        **WIDE_HEADS,
        query_pre_attn_scalar=6,
        notes=BLOCK_NORMS_OUTPUT,
    ),
    hf("glm4", "Glm4ForCausalLM", **WIDE_HEADS, notes=BLOCK_NORMS_OUTPUT),
    hf("olmo2", "Olmo2ForCausalLM", notes=BLOCK_NORMS_OUTPUT),
    hf("olmo3", "Olmo3ForCausalLM", **SLIDING, notes=BLOCK_NORMS_OUTPUT),
    hf("exaone4", "Exaone4ForCausalLM", **SLIDING, notes=BLOCK_NORMS_OUTPUT),
]

PER_LAYER_INPUTS = {
    **SLIDING,
    **WIDE_HEADS,
    "vocab_size_per_layer_input": 113,
    "hidden_size_per_layer_input": 8,
    "final_logit_softcapping": 3.0,
}

GEMMA4_HEADS = {1: {"head_dim": 12}, 3: {"head_dim": 12}}

SCALED = [
    hf("granite", "GraniteForCausalLM", **MULTIPLIERS, fast=True),
    hf(
        "gemma4",
        "Gemma4ForCausalLM",
        **PER_LAYER_INPUTS,
        per_layer_config=GEMMA4_HEADS,
        fast=True,
        notes="per-layer inputs and a layer scalar: the sum of the two outputs is not the step",
    ),
    hf(
        "gemma4-plain",
        "Gemma4ForCausalLM",
        **{**PER_LAYER_INPUTS, "hidden_size_per_layer_input": 0},
        per_layer_config=GEMMA4_HEADS,
        notes="a layer scalar alone",
    ),
]

LOOPED = [
    hf(
        "hrm-text",
        "HrmTextForCausalLM",
        num_hidden_layers=12,  # as the family counts: 2 blocks x 2 H-cycles x (2 L-cycles + 1)
        num_layers_per_stack=2,
        head_dim=6,
        H_cycles=2,
        L_cycles=2,
        L_bp_cycles=[2],
        embedding_scale=1.5,
        prefix_lm=False,
        fast=True,
        notes="two stacks of blocks, each run several times per forward pass",
    ),
]

ENTRIES = [
    *LEARNED_POSITIONS,
    *ALIBI,
    *PARALLEL,
    *SEQUENTIAL_LAYER_NORM,
    *ROTARY_RMS,
    *OUTPUT_NORMS,
    *SCALED,
    *LOOPED,
]
