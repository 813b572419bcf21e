"""Zoo entries as TransformerBridge models, and what plain Hugging Face computes for them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from zoo.entry import VOCAB, Entry

UNKNOWN = "<unk>"
SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": UNKNOWN,
}
WORDS = """
    the a an of to and in on at by her him she he it they was is had saw met told gave took
    man woman king queen child dog cat bird apple tree river house city road red old young
    small quick introduced married before after because that who what not very then now
"""


def tiny_vocabulary() -> dict[str, int]:
    """Special tokens, letters, a few words and filler: exactly `VOCAB` distinct tokens."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = list(dict.fromkeys([*SPECIAL_TOKENS.values(), ".", *WORDS.split(), *letters]))
    filler = [f"w{index}" for index in range(VOCAB - len(words))]
    return {word: index for index, word in enumerate([*words, *filler])}


def tiny_tokenizer(folder: str | Path) -> Any:
    """Word-level tokenizer of `VOCAB` words that puts <bos> first, saved in `folder` and reloaded.

    The detour over the disk is needed: TransformerLens asks a tokenizer where it came from.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel(tiny_vocabulary(), UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL_TOKENS).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@cache
def _tokenizer_folder() -> str:
    holder = tempfile.TemporaryDirectory(prefix="zoo-tokenizer-")
    _keep.append(holder)  # removed when the interpreter ends
    tiny_tokenizer(holder.name)
    return holder.name


_keep: list[Any] = []


@contextmanager
def no_installs() -> Iterator[None]:
    """Text only: neither install the libraries of the other towers nor insist on them.

    Booting some multimodal models runs `pip install torchvision`; inside, that finds no index.
    Others are refused without torchvision or timm, which their text path never calls.
    """
    from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter

    before = {name: os.environ.get(name) for name in ("PIP_NO_INDEX", "UV_OFFLINE")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        with mock.patch.object(ArchitectureAdapter, "_check_required_libraries"):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def boot(entry: Entry) -> Any:
    """TransformerBridge around a freshly built model of `entry`, in eval mode, on the CPU."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    folder = _tokenizer_folder()
    if entry.kind == "native":
        return _boot_native(entry).eval()
    with no_installs():
        bridge = TransformerBridge.boot_transformers(
            folder,  # an existing folder, so nothing is looked up on the hub
            hf_model=entry.build(),
            tokenizer=AutoTokenizer.from_pretrained(folder),
            device="cpu",
        )
    return bridge.eval()


def _boot_native(entry: Entry) -> Any:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoTokenizer

    plain = entry.build()
    bridge = TransformerBridge.boot_native(
        plain.cfg, tokenizer=AutoTokenizer.from_pretrained(_tokenizer_folder())
    )
    with torch.no_grad():
        pairs = zip(bridge.original_model.parameters(), plain.parameters(), strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)
    return bridge


def random_tokens(batch: int = 2, length: int = 11, seed: int = 0) -> torch.Tensor:
    """Ordinary token ids [batch, length] without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(4, VOCAB, (batch, length), generator=generator)


@torch.no_grad()
def reference(
    entry: Entry, tokens: torch.Tensor, mask: torch.Tensor | None = None
) -> dict[str, Any]:
    """What the plain model computes: `logits` [batch, pos, vocab] and `hidden_states`.

    `hidden_states[i]` [batch, pos, d_model] is what Hugging Face calls the i-th: the input of
    block i, except that the last one is usually taken after the final norm. Encoder-decoder
    models give the decoder's list, and the encoder's as `encoder_hidden_states`.
    """
    model = entry.build()
    if entry.kind == "native":
        return _native_reference(model, tokens, mask)
    inputs: dict[str, Any] = {"input_ids": tokens}
    if mask is not None:
        inputs["attention_mask"] = mask
    if entry.kind == "encoder-decoder":
        inputs["decoder_input_ids"] = shifted(tokens, model.config)
    output = model(**inputs, output_hidden_states=True)
    if entry.kind != "encoder-decoder":
        return {"logits": output.logits, "hidden_states": list(output.hidden_states)}
    return {
        "logits": output.logits,
        "hidden_states": list(output.decoder_hidden_states),
        "encoder_hidden_states": list(output.encoder_hidden_states),
    }


def _native_reference(
    model: Any, tokens: torch.Tensor, mask: torch.Tensor | None
) -> dict[str, Any]:
    """The same by hooks of torch, since the native model returns logits only."""
    states: list[torch.Tensor] = []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
    model.ln_out.register_forward_hook(lambda _, inputs, output: states.append(output))
    return {"logits": model(tokens, attention_mask=mask), "hidden_states": states}


def shifted(tokens: torch.Tensor, config: Any) -> torch.Tensor:
    """Decoder input [batch, pos] of teacher forcing: the start token, then all tokens but one."""
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:  # TransformerLens then gives the decoder the same tokens
        return tokens
    return torch.cat([torch.full_like(tokens[:, :1], start), tokens[:, :-1]], dim=1)
