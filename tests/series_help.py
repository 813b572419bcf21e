"""What the tests of series share: tiny checkpoints in folders, and texts that they read."""

from __future__ import annotations

from pathlib import Path

import torch
from spaces_help import TEXTS as TEXTS
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from zoo.boot import tiny_tokenizer
from zoo.entry import TINY


def checkpoint(folder: Path, *, seed: int = 0, edit=None, tokenizer=tiny_tokenizer, **config):
    """A tiny random Llama with a tokenizer, as `save_pretrained` writes it; returns the folder.

    `edit` changes the model before it is saved.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**TINY, **config})).eval()
    if edit is not None:
        with torch.no_grad():
            edit(model)
    model.save_pretrained(folder)
    tokenizer(folder)
    return folder


def letters(folder: Path) -> None:
    """A tokenizer of other tokens than the tiny one's: single letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    signs = ["<pad>", "<bos>", "<eos>", "<unk>", *"abcdefghijklmnopqrstuvwxyz."]
    backend = Tokenizer(models.WordLevel({s: i for i, s in enumerate(signs)}, "<unk>"))
    whole = pre_tokenizers.Whitespace()
    each = pre_tokenizers.Split("", "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([whole, each])
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
    special |= {"unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def scaled(layer: int, factor: float):
    """An edit that multiplies the last matrix of a block's MLP."""

    def edit(model):
        model.model.layers[layer].mlp.down_proj.weight.mul_(factor)

    return edit


def run_of(folder: Path, steps=(1, 10, 100, 1000), *, seed: int = 0) -> Path:
    """A training run of checkpoints `checkpoint-S`, whose last block turns up at step 100."""
    for step in steps:
        edit = scaled(2, 40.0 if step >= 100 else 1 + 0.001 * step)
        checkpoint(folder / f"checkpoint-{step}", seed=seed, edit=edit)
    return folder
