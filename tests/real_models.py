"""Real trained models, and what plain Hugging Face gives on the same tokens in float64.

Everything here skips visibly where `interp get` has not fetched the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch

from interp.errors import InterpError
from interp.prompts.packages import folder_of

SENTENCES = (
    "The old king gave his daughter a small horse, and the horse followed her everywhere.",
    "When Mary and John went to the store, John gave a bottle of milk to Mary.",
    "Paris is the capital of France, and Berlin is the capital of Germany.",
    "He ate a red apple. The company Apple sells computers, and an apple costs less.",
    "red blue green white red blue green white red blue green white",
    "Nobody knew why the quiet engineer had left the harbour before the storm.",
)


def fetched(name):
    """The folder of a package; a visible skip where it was not fetched."""
    try:
        return folder_of(name)
    except InterpError as error:
        pytest.skip(str(error))


@dataclass
class Plain:
    """One prompt through plain transformers in float64.

    Attributes:
        ids: the tokens.
        stream: `[L + 1, n, d]`, the states that enter each block, and the last one before the norm.
        attn, mlp: `[L, n, d]`, what attention and MLP add.
        patterns: `[L, heads, n, n]`.
        logits: `[n, vocabulary]`.
    """

    ids: list[int]
    stream: np.ndarray
    attn: np.ndarray
    mlp: np.ndarray
    patterns: np.ndarray
    logits: np.ndarray


class Reference:
    """SmolLM2 by plain transformers: weights and passes in float64."""

    def __init__(self, folder):
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager"
        ).eval()
        self._seen = {}

    @property
    def blocks(self):
        return self.model.model.layers

    @cached_property
    def unembedding(self):
        return self.model.lm_head.weight.detach().numpy()

    def lens(self, states):
        """Logits of states `[..., d]` by the final norm, written out."""
        norm = self.model.model.norm
        scale = np.sqrt((states**2).mean(-1, keepdims=True) + norm.variance_epsilon)
        return states / scale * norm.weight.detach().numpy() @ self.unembedding.T

    def __call__(self, ids):
        key = tuple(map(int, ids))
        if key not in self._seen:
            self._seen[key] = self._run(list(key))
        return self._seen[key]

    def _run(self, ids):
        kept = {"attn": [], "mlp": [], "out": []}

        def keep(name):
            def hook(module, args, out):
                kept[name].append((out[0] if isinstance(out, tuple) else out)[0].numpy().copy())

            return hook

        hooks = [b.self_attn.register_forward_hook(keep("attn")) for b in self.blocks]
        hooks += [b.mlp.register_forward_hook(keep("mlp")) for b in self.blocks]
        hooks += [self.blocks[-1].register_forward_hook(keep("out"))]
        try:
            with torch.no_grad():
                out = self.model(
                    torch.tensor([ids]), output_hidden_states=True, output_attentions=True
                )
        finally:
            for hook in hooks:
                hook.remove()
        # The last of `hidden_states` is behind the final norm; the state before is the block's own.
        stream = [h[0].numpy() for h in out.hidden_states[:-1]] + kept["out"]
        return Plain(
            ids,
            np.stack(stream),
            np.stack(kept["attn"]),
            np.stack(kept["mlp"]),
            np.stack([a[0].numpy() for a in out.attentions]),
            out.logits[0].numpy(),
        )


MAIN = (
    *("norm", "rotation", "path_length", "trajectory", "random_pairs", "attention"),
    *("next_token", "logit_lens", "layer_similarity", "position_profile"),
)
"""Analyses of one run that most tests read."""
