"""The lens in PyTorch, a few tokens with the whole vocabulary: on a GPU, and in float64.

Knows matrices only. `row_statistics` and `row_divergences` are the formulas and the reference. On a
GPU `torch.compile` makes of them a few kernels that read the logits from memory instead of some
twenty; where it cannot, they run as they are after one warning. On a CPU they run as they are, for
float64 and where `interp.models.lens.loops` cannot be used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.geometry import at_least_float32
from interp.models.lens.head import FORBIDDEN, reason

if TYPE_CHECKING:
    from interp.models.lens.best import BestSoFar
    from interp.models.lens.ends import EndCheck
    from interp.models.lens.head import Head


LOGIT_BYTES = {"cpu": 2**24, "gpu": 2**29}
"""Logits at a time. The plain form makes about six more tensors of this size, the compiled none."""

TINY = torch.finfo(torch.float32).tiny
"""Least probability of the final distribution, so that its logarithm is a number."""

Statistics = tuple[Tensor, ...]
NAMES = ("log_prob", "rank", "entropy", "top_prob", "top_token")
FAR = ("kl_to_final", "js_to_final", "tv_to_final")


def row_statistics(z: Tensor, targets: Tensor) -> Statistics:
    """`NAMES` of logits `z [state, token, vocab]` for `targets [token]`: `[state, token]` each."""
    chosen = z.gather(-1, targets.view(1, -1, 1).expand(len(z), -1, 1))
    # Strictly larger: ties with the target do not push it down.
    above = (z > chosen).sum(-1).to(z.dtype)
    top, token = z.max(-1)
    shifted = z - top.unsqueeze(-1)
    mass = shifted.exp().sum(-1)
    own = (shifted.exp() * shifted).sum(-1)
    log_mass = mass.log()
    entropy = (log_mass - own / mass).clamp(min=0)
    log_prob = torch.where(chosen > FORBIDDEN, chosen, -torch.inf).squeeze(-1) - top - log_mass
    return log_prob, above, entropy, 1 / mass, token


def row_divergences(z: Tensor, q: Tensor, q_entropy: Tensor) -> Statistics:
    """`FAR` of logits `z [state, token, vocab]` from `q [token, vocab]`: `[state, token]` each."""
    log_p = z - z.logsumexp(-1, keepdim=True)
    p = log_p.exp()
    kl = -(q * log_p).sum(-1) - q_entropy
    # Finite stand-ins for −∞ give a huge sum where q has weight on a forbidden token.
    kl = torch.where(kl > -FORBIDDEN * 1e-20, torch.inf, kl.clamp(min=0))
    s = p + q
    p_entropy = -(p * log_p).sum(-1)
    js = math.log(2) - (p_entropy + q_entropy + (s * s.log()).sum(-1)) / 2
    tv = (p - q).abs().sum(-1) / 2
    return kl, js.clamp(0, math.log(2)), tv.clamp(max=1)


def _as_it_is(function: Callable[..., Statistics]) -> Callable[..., Statistics]:
    return function


@cache
def fused(function: Callable[..., Statistics]) -> Callable[..., Statistics]:
    """`function` compiled at its first call, or as it is, with a warning, where that fails."""
    chosen: list[Callable[..., Statistics]] = []

    def call(*args: Tensor) -> Statistics:
        if chosen:
            return chosen[0](*args)
        try:
            # `dynamic`: the last chunk has fewer tokens, and a new compilation takes longer than
            # the batch.
            compiled = torch.compile(function, dynamic=True)
            result: Statistics = compiled(*args)
            chosen.append(compiled)
        except Exception as error:  # noqa: BLE001 (a compiler can fail in any way)
            warnings.warn(
                f"torch.compile cannot fuse the lens here ({reason(error)}); its plain form runs "
                "instead, slower and with the same numbers",
                stacklevel=2,
            )
            chosen.append(function)
            result = function(*args)
        return result

    return call


class PlainLens:
    """Statistics of all states of a few tokens, with one product for all of the vocabulary.

    Args:
        head: the linear end of the readout.
        divergences: compute KL, JS and TV; NaN without.
        fuse: fuse the formulas with `torch.compile`.
    """

    def __init__(self, head: Head, *, divergences: bool, fuse: bool) -> None:
        self.head, self.divergences = head, divergences
        form = fused if fuse else _as_it_is
        self.near, self.far = form(row_statistics), form(row_divergences)

    @classmethod
    def tokens_at_a_time(cls, states: int, vocab: int, device: str) -> int:
        """Number of tokens that fit into one product."""
        room = LOGIT_BYTES["cpu" if device == "cpu" else "gpu"]
        return max(1, room // (4 * vocab * max(1, states)))

    def statistics(
        self,
        h: Tensor,
        logits: Tensor,
        targets: Tensor,
        best: BestSoFar | None = None,
        check: EndCheck | None = None,
    ) -> list[dict[str, Tensor]]:
        """All statistics of the states, `[state, token]` each, if there are any, and of the end.

        Args: `h [state, token, d_head]`, `logits [token, vocab]`, `targets [token]`, none negative;
        `best` is shown the logits of the states, `check` those of its own vectors.
        """
        states, tokens, width = h.shape
        final = at_least_float32(logits).clamp(min=FORBIDDEN)
        last = dict(zip(NAMES, self.near(final[None], targets), strict=True))
        if check is not None:
            check.take(self.head.logits(check.h))
        if not states:
            return [last]
        z = self.head.logits(h.reshape(-1, width)).view(states, tokens, len(self.head.weight))
        z = at_least_float32(z).clamp_(min=FORBIDDEN)
        if best is not None:
            best.take(z.transpose(0, 1).flatten(0, 1))
        out = dict(zip(NAMES, self.near(z, targets), strict=True))
        far: Statistics = (torch.full_like(out["entropy"], torch.nan),) * 3
        if self.divergences:
            q = torch.softmax(final, -1).clamp_(min=TINY)
            far = self.far(z, q, last["entropy"][0])
        return [out | dict(zip(FAR, far, strict=True)), last]
