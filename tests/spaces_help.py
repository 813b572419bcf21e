"""Spaces and texts that several tests share."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import interp
import interp.demo


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rotation(d: int, seed: int = 9) -> np.ndarray:
    return np.linalg.qr(rng(seed).normal(size=(d, d)))[0]


# ---- retrieval -------------------------------------------------------------------------------


def directions(*degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.column_stack([np.cos(angle), np.sin(angle)])


# ---- similarities ----------------------------------------------------------------------------


def slow_hsic_1(k: np.ndarray, m: np.ndarray) -> float:
    """Song et al. (2012), eq. 5, with matrices."""
    n, one = len(k), np.ones(len(k))
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    middle = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (np.trace(k @ m) + middle - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def slow_cka(a: np.ndarray, b: np.ndarray, debiased: bool) -> float:
    k, m = a @ a.T, b @ b.T
    if debiased:
        return slow_hsic_1(k, m) / np.sqrt(slow_hsic_1(k, k) * slow_hsic_1(m, m))
    h = np.eye(len(a)) - 1 / len(a)
    hsic = [np.trace(p @ h @ q @ h) for p, q in ((k, m), (k, k), (m, m))]
    return hsic[0] / np.sqrt(hsic[1] * hsic[2])


# ---- the analysis ----------------------------------------------------------------------------


TEXTS = [
    "the man saw her in a red house and the dog met him on the old road",
    "a queen told her that the king had gone by the river",
    "the dog met him on the old road . he was not old",
    "that small bird was in the apple tree by the house",
    "who had introduced the child to the king of the city",
]


def states_of(model, text: str) -> np.ndarray:
    """`[state, pos, d]` of one text, run alone."""
    n = len(model.blocks)
    with torch.no_grad():
        _, cache = model.run_with_cache(model.to_tokens(text))
    names = [*(f"blocks.{i}.hook_resid_pre" for i in range(n)), f"blocks.{n - 1}.hook_resid_post"]
    return torch.stack([cache[name][0] for name in names]).double().numpy()


# ---- words and their vectors -----------------------------------------------------------------


def pieces_model(words: list[str], d: int, seed: int, name: str):
    """A model with a vocabulary of its own: `W_E`, `W_U` and a tokenizer of word pieces."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["[UNK]", *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")  # noqa: S106
    weights = torch.from_numpy(rng(seed).normal(size=(len(vocabulary), d)))
    cfg = SimpleNamespace(model_name=name)
    return SimpleNamespace(
        W_E=weights, W_U=weights.T * 2, tokenizer=tokenizer, cfg=cfg, hook_dict={}
    )


# ---- the embedded models ---------------------------------------------------------------------


embedded = pytest.mark.skipif(
    not all((path / "config.json").is_file() for path in interp.demo.MODELS.values()),
    reason="the embedded models are not there",
)
