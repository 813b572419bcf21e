"""Small GGUF files with known weights: a Llama with a byte-level BPE tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["The man gave her a book.", "She read the book to him.", "A dog barks at the man."] * 4
LAYERS, WIDTH, HEADS, KEYS, INNER = 2, 64, 4, 2, 96
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that was trained on a few sentences."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    bpe.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet),
    )
    names = dict(zip(("unk_token", "bos_token", "eos_token"), special, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def llama(*, tied: bool = False) -> LlamaForCausalLM:
    """A Llama with random weights, grouped keys, and norms that are not all ones."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=tied,
        initializer_range=0.3,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.copy_(0.5 + torch.rand_like(value))
    return model


def stored(model: LlamaForCausalLM) -> dict[str, np.ndarray]:
    """The weights under the names, and in the order of rows, of llama.cpp."""
    out = {}
    tied = model.config.tie_word_embeddings
    for name, value in model.state_dict().items():
        array = value.detach().numpy().astype(np.float32)
        if name.startswith("model.layers."):
            _, _, number, rest = name.split(".", 3)
            part, _, kind = rest.rpartition(".")
            if part.endswith(("q_proj", "k_proj")):
                array = pairs_interleaved(array, HEADS if part.endswith("q_proj") else KEYS)
            out[f"blk.{number}.{NAMES[part]}.{kind}"] = array
        elif not (tied and name == "lm_head.weight"):
            key = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
            out[f"{key.get(name.rpartition('.')[0], 'output')}.weight"] = array
    return out


def pairs_interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves (x0 x1 … y0 y1 …) to pairs (x0 y0 x1 y1 …)."""
    half = len(rows) // heads // 2
    order = [
        h * 2 * half + p + side * half for h in range(heads) for p in range(half) for side in (0, 1)
    ]
    return rows[order]


def write(
    path: Path,
    tensors: Mapping[str, np.ndarray] | None = None,
    kind: str = "F32",
    *,
    architecture: str = "llama",
    with_tokenizer: bool = True,
    more: Mapping[str, Any] | None = None,
) -> Path:
    """A GGUF file; matrices have the type `kind`, vectors float32."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(len(tokenizer()))
    if with_tokenizer:
        _write_tokenizer(writer)
    for key, value in (more or {}).items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint16
        add(key, value)
    for name, array in (stored(llama()) if tensors is None else tensors).items():
        if array.ndim < 2:
            writer.add_tensor(name, array)
            continue
        quantised = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(name, gguf.quantize(array, quantised), raw_dtype=quantised)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _write_tokenizer(writer: gguf.GGUFWriter) -> None:
    own = tokenizer()
    tokens = sorted(own.get_vocab(), key=own.get_vocab().get)
    bpe = json.loads(own.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<unk>", "<s>", "</s>") else 1 for token in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)


def rounded_llama(kind: str) -> LlamaForCausalLM:
    """The model with its matrices rounded as a file of that type has them."""
    model = llama()
    quantised = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for value in model.parameters():
            if value.ndim > 1:
                packed = gguf.quantize(value.numpy(), quantised)
                value.copy_(torch.from_numpy(gguf.dequantize(packed, quantised).copy()))
    return model
