"""Tokenizers made here, and rows and pieces that several tests of prompts share."""

from __future__ import annotations

from functools import lru_cache

from conftest import SHARED_DATA
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

GPT2_FILES = SHARED_DATA / "gpt2-tokenizer"

BOS = "<|endoftext|>"

SHORT = ["He met her", "the man", "He met the man there"]


# --- tokenizers, built in code -----------------------------------------------------------------
def _wrap(backend, **roles):
    from transformers import PreTrainedTokenizerFast

    named = {f"{role}_token": token for role, token in roles.items()}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **named)


def _bpe(vocab, merges, **options):
    for left, right in merges:
        vocab[left + right] = len(vocab)
    return Tokenizer(models.BPE(vocab, merges, **options))


@lru_cache
def byte_level(appends_eos=False):
    """GPT-2 style: 256 byte symbols in fixed order, then a few merges that the tests know."""
    merges = [("Ġ", "h"), ("Ġh", "e"), ("Ġhe", "r"), ("t", "h"), ("th", "e")]
    merges += [("Ġ", "m"), ("Ġm", "e"), ("Ġme", "t"), ("Ġ", "the")]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = _bpe({BOS: 0} | {symbol: i + 1 for i, symbol in enumerate(alphabet)}, merges)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if appends_eos:
        backend.post_processor = processors.TemplateProcessing(
            f"$A {BOS}", special_tokens=[(BOS, 0)]
        )
    return _wrap(backend, bos=BOS, eos=BOS, pad=BOS)


def ids(prompts, i=0):
    return prompts.tokens[i].tolist()


def roles(prompts, i=0, name="role"):
    return list(prompts.labels[name][i])


def tokens_with(prompts, role, name="role"):
    index = prompts.index()
    return index[index[name] == role]["token"].tolist()
