"""Models of known shapes with random weights, built in memory: no download, no weights on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Shape:
    """A model's size.

    Attributes:
        name: for the tables.
        family: "gpt2" or "llama".
        layers, width, heads, vocab: as in the model's configuration.
    """

    name: str
    family: str
    layers: int
    width: int
    heads: int
    vocab: int


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("GPT-2 small", "gpt2", 12, 768, 12, 50_257),
        Shape("GPT-2 XL, 8 blocks", "gpt2", 8, 1600, 25, 50_257),
        Shape("Llama style, 4 blocks", "llama", 4, 2048, 32, 128_000),
        Shape("GPT-2 XL", "gpt2", 48, 1600, 25, 50_257),
        Shape("8B, 16 blocks", "llama", 16, 4096, 32, 128_256),
        Shape("tiny", "gpt2", 2, 16, 2, 61),
    )
}
CPU = ("GPT-2 small", "GPT-2 XL, 8 blocks", "Llama style, 4 blocks")
GPU = ("GPT-2 XL", "8B, 16 blocks")


def plain(shape: Shape, positions: int, dtype: torch.dtype) -> Any:
    """The Hugging Face model with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if shape.family == "gpt2":
        config = GPT2Config(
            vocab_size=shape.vocab,
            n_positions=positions,
            n_embd=shape.width,
            n_layer=shape.layers,
            n_head=shape.heads,
            attn_implementation="eager",
        )
        return GPT2LMHeadModel(config).to(dtype).eval()
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.width,
        intermediate_size=shape.width * 7 // 2,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=max(1, shape.heads // 4),
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def bridge(shape: Shape, positions: int, device: str, dtype: torch.dtype) -> Any:
    """The same model as TransformerLens loads it, around the Hugging Face model."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    inside = plain(shape, positions, dtype).to(device)
    with _tokenizer(shape.vocab) as folder:
        model = TransformerBridge.boot_transformers(
            folder,  # an existing folder, so that nothing is looked up on the hub
            hf_model=inside,
            tokenizer=AutoTokenizer.from_pretrained(folder),
            device=device,
            dtype=dtype,
        )
    return model.eval()


@contextmanager
def _tokenizer(vocab: int) -> Iterator[str]:
    """A folder with a tokenizer of one word for each row of the embedding."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(vocab)}
    backend = Tokenizer(models.WordLevel(words, "w0"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), "w0")
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)
        yield folder
