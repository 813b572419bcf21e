"""The one table from site names to hook points and axes, and where a bridge keeps its stream.

`SITES` is text: it is read without a model. `layout` finds the block stacks of any bridge and the
hook points that could serve each site; which of them really fire and mean what they say is for
`interp.models.probe` to verify. Nothing is attached here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Site:
    """A place in the model that analyses read.

    Attributes:
        axes: names of the axes.
        doc: what is found there.
        kind: "state" (a boundary of the residual stream, by offset), "block" (inside a block),
            "model" (of the whole pass).
        offset: for states, boundary index minus block index.
        hooks: for block sites, hook names inside the block, first that fires wins.
        of: for a site that is computed, the site that it is computed from.
    """

    axes: str
    doc: str
    kind: Literal["state", "block", "model"]
    offset: int = 0
    hooks: tuple[str, ...] = ()
    of: str = ""


_ATTN = ("attn", "self_attn")


def _attn(*names: str) -> tuple[str, ...]:
    return tuple(f"{module}.{name}" for module in _ATTN for name in names)


_STREAM = "batch pos d_model"
SITES: dict[str, Site] = {
    "resid_pre": Site(_STREAM, "x_l, the stream that enters the block", "state"),
    "resid_post": Site(_STREAM, "x_{l+1}, the stream that leaves the block", "state", 1),
    "resid_next": Site(
        _STREAM, "x_{l+2}, the stream that leaves the next block; absent at the last", "state", 2
    ),
    "resid_initial": Site(_STREAM, "x_0, the stream that enters the first block", "state"),
    "resid_final": Site(_STREAM, "x_L, the stream that leaves the last block", "state"),
    "resid_mid": Site(
        _STREAM,
        "x_l + a_l, the stream between attention and MLP of a sequential block",
        "block",
        hooks=("hook_resid_mid",),
    ),
    "terms": Site(_STREAM, "the additive terms of the block, in `batch.terms` by name", "block"),
    "pattern": Site(
        "batch head query key", "attention pattern", "block", hooks=_attn("hook_pattern")
    ),
    "scores": Site(
        "batch head query key",
        "attention scores before the softmax",
        "block",
        hooks=_attn("hook_attn_scores"),
    ),
    "q": Site("batch pos head d_head", "queries", "block", hooks=_attn("hook_q")),
    "k": Site("batch pos kv_head d_head", "keys", "block", hooks=_attn("hook_k")),
    "v": Site("batch pos kv_head d_head", "values", "block", hooks=_attn("hook_v")),
    "z": Site("batch pos head d_head", "mixed values of each head", "block", hooks=_attn("hook_z")),
    "result": Site(
        "batch pos head d_model",
        "output of each head after W_O, computed from z; with b_O they sum to the attention term",
        "block",
        hooks=_attn("hook_z"),
        of="z",
    ),
    "mlp_pre": Site(
        "batch pos d_mlp", "MLP before its non-linearity", "block", hooks=("mlp.hook_pre",)
    ),
    "mlp_post": Site(
        "batch pos d_mlp", "MLP after its non-linearity", "block", hooks=("mlp.hook_post",)
    ),
    "readout": Site("-", "a verified path to the vocabulary, in `batch.readout`", "model"),
    "stream": Site("state batch pos d_model", "x_0 … x_L of one pass, stacked", "model"),
    "logits": Site("batch pos vocab", "the model's own logits", "model"),
}

TERM_HOOKS: dict[str, tuple[str, ...]] = {
    "attn": ("hook_attn_out", "self_attn.hook_out", "attn.hook_out", "ln1_post.hook_out"),
    "cross_attn": ("cross_attn.hook_out", "ln2_post.hook_out"),
    "mixer": ("mixer.hook_out",),
    "linear_attn": ("linear_attn.hook_out",),
    "mamba": ("mamba.hook_out",),
    "conv": ("conv.hook_out",),
    "time_mix": ("hook_time_mix_out",),
    "channel_mix": ("hook_channel_mix_out",),
    "shared_mlp": ("shared_mlp.hook_out",),
    "mlp": (
        "hook_mlp_out",
        "mlp.hook_out",
        "moe.hook_out",
        "ln3_post.hook_out",
        "ln2_post.hook_out",
    ),
}
"""Names under which a block may add to its stream, in the order in which they are added."""
