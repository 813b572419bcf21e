"""A driver of TransformerLens's remote protocol that runs a tiny local bridge."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformer_lens.model_bridge.driver_protocol import ForwardResult
from transformer_lens.model_bridge.remote_bridge import RemoteBridge
from transformer_lens.model_bridge.sources._driver_base import DriverBase

BLOCK_NAMES = ("hook_out", "attn.hook_out", "mlp.hook_out")


class LocalDriver(DriverBase):
    """Answers like the vLLM driver: one prompt at a time, captures in no useful order."""

    def __init__(
        self, bridge: Any, names: tuple[str, ...] = BLOCK_NAMES, embed: bool = True, **changes: Any
    ) -> None:
        cfg = copy.deepcopy(bridge.cfg)
        super().__init__(cfg, bridge.tokenizer)
        self.bridge, self.asked = bridge, []
        layers = range(len(bridge.blocks))
        points = {f"blocks.{i}.{name}" for i in layers for name in names}
        self.supported_hook_points = frozenset(points | ({"embed.hook_out"} if embed else set()))
        self.provides_sequence_logits = changes.get("sequence_logits", True)
        self.scale = changes.get("scale", 1.0)

    def forward(
        self,
        input_ids=None,
        *,
        capture=(),
        intervene=None,
        max_new_tokens=1,
        return_logits=True,
        attention_mask=None,
        **kwargs,
    ):
        tokens = torch.as_tensor(input_ids)
        tokens = tokens if tokens.ndim == 2 else tokens[None]
        if len(tokens) != 1:
            raise NotImplementedError("one prompt at a time")
        self.asked.append(set(capture))
        with torch.no_grad():
            logits, cache = self.bridge.run_with_cache(tokens, return_cache_object=False)
        captured = {name: cache[name].numpy() for name in sorted(capture, reverse=True)}
        if "embed.hook_out" in captured:
            captured["embed.hook_out"] = captured["embed.hook_out"] * self.scale
        return ForwardResult(logits=logits.numpy(), captured=captured)


def remote(bridge: Any, *args: Any, **changes: Any) -> RemoteBridge:
    """A RemoteBridge around `bridge`, which is left alone."""
    adapter = copy.copy(bridge.adapter)
    adapter.cfg = copy.deepcopy(bridge.cfg)
    return RemoteBridge(adapter, bridge.tokenizer, LocalDriver(bridge, *args, **changes))
