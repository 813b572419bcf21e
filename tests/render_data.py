"""Results made by hand for the tests of figures and reports: known numbers, hostile tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.random_pairs import RandomPairs
from analyses.rotation import Rotation
from interp import Analysis, Batch, Examples, Plot, Result, Results, State, TopK
from interp.contract.leaves import Rows

HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    '<img src=x onerror="window.hacked = 2">',
    "<s>",
    "<b>bold",
    "&lt;&amp;",
    "\n",
    " her",
    "<!--",
)
PROMPTS, LENGTH, LAYERS, HEADS, WIDTH = 12, 9, 4, 3, 16


@dataclass(frozen=True)
class ThirdParty(Analysis):
    """Whatever somebody else <b>measures</b>."""

    scale: float = 2.0

    columns: ClassVar[Mapping[str, str]] = {
        "one": "first coordinate; <units>",
        "two": "second coordinate; units",
        "three": "third coordinate; units",
    }
    plots: ClassVar[tuple[Plot, ...]] = (
        Plot("line", ("one", "two"), "One & two", "units", "a <flat> line."),
        Plot("scatter", ("one", "two"), "One against two", "units"),
        Plot("trajectory", ("one", "two", "three"), "Ways", "units"),
        Plot("heatmap", ("one",), "One by position", "units"),
        Plot("line", ("absent",), "A column that is not there"),
    )

    def observe(self, batch: Batch) -> dict:
        return {}


def tokens_table() -> pd.DataFrame:
    """One row per token: BOS, a word, `her` with the word before it, hostile ones."""
    rows = []
    for prompt in range(PROMPTS):
        for position in range(LENGTH):
            text = HOSTILE[(prompt + position) % len(HOSTILE)]
            role = {3: "previous", 4: "target", 6: "random"}.get(position)
            token = {0: "<|endoftext|>", 3: " met", 4: " her"}.get(position, text)
            rows.append((prompt, position, token, position == 0, role, f"kind {position % 3}"))
    columns = ["prompt", "position", "token", "special", "role", "sort"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.insert(3, "token_id", np.arange(len(frame)))
    return frame


def rows_leaf(tokens: pd.DataFrame, values: np.ndarray) -> Rows:
    return Rows.of(tokens["prompt"].to_numpy(), tokens["position"].to_numpy(), values)


def layered(tokens: pd.DataFrame, names: list[str], seed: int, layers: int = LAYERS) -> State:
    """Random values per token and layer; `target` tokens are higher from layer 2 on."""
    random = np.random.default_rng(seed)
    target = (tokens["role"] == "target").to_numpy()
    state: State = {}
    for layer in range(layers):
        higher = 8.0 * target * (layer >= 2)
        state["", layer] = {
            name: rows_leaf(tokens, 20 + random.normal(size=len(tokens)) + higher) for name in names
        }
    return state


def rotation(tokens: pd.DataFrame) -> Result:
    state = layered(tokens, ["angle", "attn_angle", "mlp_angle", "turning"], 1)
    state["", LAYERS - 1]["turning"] = rows_leaf(tokens, np.full(len(tokens), np.nan))
    return Result("rotation", Rotation(), state, tokens, notes=("a caveat with <tags>",))


def path_length(tokens: pd.DataFrame) -> Result:
    names = ["norm", "path", "chord", "attn_share", "mlp_share", "mixer_share"]
    return Result("path_length", PathLength(), layered(tokens, names, 2), tokens)


def random_pairs(tokens: pd.DataFrame) -> Result:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(PROMPTS)
    positions = torch.arange(LENGTH).expand(PROMPTS, LENGTH)
    mask = positions > 0
    state: State = {}
    for layer in range(LAYERS):
        vectors = torch.randn(PROMPTS, LENGTH, WIDTH, generator=generator) + 0.7
        scores = torch.rand(PROMPTS, LENGTH, generator=generator)
        state["", layer] = {"states": TopK.of(64, scores, ids, positions, mask, vectors)}
    return Result("random_pairs", RandomPairs(per_layer=64, pairs=64), state, tokens)


def logit_lens(tokens: pd.DataFrame) -> Result:
    random = np.random.default_rng(3)
    names = ["log_prob", "rank", "entropy", "kl_to_final", "top_prob"]
    state = layered(tokens, names, 4, LAYERS + 1)
    strings = dict(enumerate([*HOSTILE, " the", "a"]))
    ids = random.integers(len(strings), size=(3, LAYERS + 1, LENGTH, 4))
    probs = -np.sort(-random.random((3, LAYERS + 1, LENGTH, 4)), axis=-1)
    state["", -1] = {
        "top_tokens": Examples(3, dict(enumerate(ids))),
        "top_probs": Examples(3, dict(enumerate(probs))),
    }
    return Result("logit_lens", LogitLens(), state, tokens, strings)


def patterns(seed: int, heads: int = HEADS, length: int = LENGTH) -> np.ndarray:
    """Causal attention `[head, query, key]`, rows summing to 1."""
    scores = np.random.default_rng(seed).normal(size=(heads, length, length)) * 2
    scores[:, ~np.tril(np.ones((length, length), dtype=bool))] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention(tokens: pd.DataFrame) -> Result:
    random = np.random.default_rng(5)
    state: State = {}
    for layer in range(LAYERS):
        scores = {n: random.random((len(tokens), HEADS)) for n in ("entropy", "previous")}
        scores["induction"] = np.full((len(tokens), HEADS), 0.1)
        scores["induction"][:, 1] += 0.2 * layer
        state["", layer] = {n: rows_leaf(tokens, v) for n, v in scores.items()}
        items = {prompt: patterns(10 * layer + prompt) for prompt in range(2)}
        state["", layer]["pattern"] = Examples(2, items)
    return Result("attention", Attention(), state, tokens)


def third_party(tokens: pd.DataFrame) -> Result:
    state = layered(tokens, ["one", "two", "three"], 6)
    return Result("third_party", ThirdParty(), state, tokens)


def make_results() -> Results:
    tokens = tokens_table()
    makers = (rotation, random_pairs, path_length, logit_lens, attention, third_party)
    provenance = {
        "model": {
            "name": "toy <model>",
            "architecture": "Toy",
            "dtype": "float32",
            "basis": "raw",
            "n_layers": [LAYERS],
            "d_model": WIDTH,
        },
        "versions": {"python": "3"},
        "prompts": {
            "source": "a list of <strings>",
            "count": PROMPTS,
            "tokens": len(tokens),
            "sha256": "0123abcd",
            "token_ids": [[1, 2, 3]],
            "notes": ["2 prompts lack the word"],
        },
    }
    return Results([make(tokens) for make in makers], provenance)
