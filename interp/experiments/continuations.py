"""Divergence between the continuations that a model samples after two contexts.

Estimated for whole continuations, not for single tokens, at a temperature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._arrays import Floats
from interp.errors import BadInput
from interp.experiments.controls import with_untrained_copy
from interp.experiments.token_vectors import prompts_for
from interp.models.load import load_model
from interp.models.probe import inspect
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding
from interp.stats.paired import within_range

COLUMNS = {
    "length": "tokens of the continuation",
    "js": "Jensen–Shannon divergence of the two distributions of continuations, ≤ ln 2; nats",
    "js_se": "its standard error over the samples; nats",
    "kl_ab": "KL(after a ‖ after b); nats",
    "kl_ab_se": "its standard error; nats",
    "kl_ba": "KL(after b ‖ after a); nats",
    "kl_ba_se": "its standard error; nats",
}


@dataclass(frozen=True, eq=False, repr=False)
class Continuations(Finding):
    """Divergence of the continuations of two contexts: the answer of `continuation_divergence`.

    Attributes:
        frame: a row per length; `COLUMNS` gives the meaning of the columns.
        temperature, samples: as given by the caller.
    """

    name = "continuations"
    question = "How differently does the model go on after the two contexts?"
    columns = COLUMNS
    draws_control = True

    frame: pd.DataFrame
    temperature: float
    samples: int
    notes: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """The divergence of the whole continuations."""
        row = self.frame.iloc[-1]
        return (
            f"after {int(row['length'])} tokens the continuations diverge by {row['js']:.3f} nats "
            f"(Jensen–Shannon, standard error {row['js_se']:.3f}; 0 for equal contexts, at most "
            "ln 2 = 0.693)"
        )

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The divergence by length, with that of the untrained copy in grey."""
        lines = {"two contexts": self._line()}
        if isinstance(self.control, Continuations):
            lines["untrained copy"] = self.control._line()
        drawing = Drawing(
            "lines",
            "Divergence of continuations",
            line_rows(lines),
            "Jensen–Shannon, nats",
            "tokens of the continuation",
            f"{self.samples} continuations per context at temperature {self.temperature:g}. Bands: "
            "95 % intervals (1.96 standard errors). The maximum is ln 2 = 0.693.",
            "Grey: the same on an untrained copy of the model." if len(lines) > 1 else "",
            "the line would stay at 0.",
            options={"greys": ("untrained copy",)},
        )
        return {"Divergence": drawing}

    def _line(self) -> pd.DataFrame:
        rows = self.frame.rename(columns={"length": "x", "js": "mean"})[["x", "mean", "js_se"]]
        half = 1.96 * rows.pop("js_se")
        low, high = within_range(rows["mean"].to_numpy(), half.to_numpy(), 0, math.log(2))
        return rows.assign(low=low, high=high, n=self.samples)


def continuation_divergence(
    model: Any,
    a: str,
    b: str,
    *,
    temperature: float = 1.0,
    length: int = 8,
    samples: int = 64,
    seed: int = 0,
    control: str | None = None,
) -> Continuations:
    """Divergence between the continuations sampled after two contexts.

    P_τ(y | a) = Π_t softmax(z_t / τ). Continuations y are drawn after each context and scored
    under both: KL(a ‖ b) is the mean of log P(y|a) − log P(y|b) over y from a; the Jensen–Shannon
    divergence is half the mean of log 2P(y|a) / (P(y|a) + P(y|b)) over y from a plus the same from
    b. Both estimates are unbiased and have a standard error. The divergence is 0 if the contexts
    mean the same to the model; a good control is another pair of contexts in which the word has
    one sense.

    Args:
        a: first context.
        b: second context.
        temperature: temperature of the sampling, above 0.
        length: tokens of a continuation.
        samples: continuations per context.
        seed: seed of the sampling.
        control: repeat with an untrained copy of the model: random-init.

    `.frame` has one row per length 1 … `length`; `COLUMNS` gives the meaning of the columns.
    Raises `BadInput` for a temperature that is not above 0, fewer than 2 samples, or a
    continuation that does not fit in the model's context.
    """
    _check(temperature, length, samples)
    bridge = load_model(model)
    contexts = _contexts(bridge, [a, b], length)
    generator = torch.Generator().manual_seed(seed)
    drawn = [_sample(bridge, c, temperature, length, samples, generator) for c in contexts]
    ratios = []
    for own, other, y in ((0, 1, drawn[0]), (1, 0, drawn[1])):
        scores = [_log_prob(bridge, contexts[i], y, temperature) for i in (own, other)]
        ratios.append(np.cumsum(scores[0] - scores[1], axis=1))
    table = continuation_table(ratios[0], ratios[1])
    found = Continuations(table, temperature, samples)
    asked: dict[str, Any] = {"temperature": temperature, "length": length}
    asked |= {"samples": samples, "seed": seed}
    again = partial(continuation_divergence, a=a, b=b, **asked)
    return with_untrained_copy(found, control, bridge, again)


def continuation_table(ratio_a: Floats, ratio_b: Floats) -> pd.DataFrame:
    """The table from log ratios `[samples, length]`: own context over the other, from a and from b.

    >>> continuation_table(np.zeros((4, 1)), np.zeros((4, 1)))["js"].item()
    0.0
    """
    # log 2P/(P + Q) = log 2 − log(1 + e^−r) with r = log P/Q; the ratio itself would overflow.
    halves = [np.log(2) - np.logaddexp(0, -r) for r in (ratio_a, ratio_b)]
    columns: dict[str, Any] = {"length": np.arange(1, ratio_a.shape[1] + 1)}
    columns["js"] = (halves[0].mean(axis=0) + halves[1].mean(axis=0)) / 2
    columns["js_se"] = np.sqrt(_error(halves[0]) ** 2 + _error(halves[1]) ** 2) / 2
    for name, ratio in (("kl_ab", ratio_a), ("kl_ba", ratio_b)):
        columns[name], columns[f"{name}_se"] = ratio.mean(axis=0), _error(ratio)
    return pd.DataFrame(columns)


def _error(values: Floats) -> Floats:
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)), np.float64)


def _check(temperature: float, length: int, samples: int) -> None:
    if not temperature > 0:
        raise BadInput(f"temperature is {temperature!r}; allowed is a number above 0, such as 1.0")
    if length < 1 or samples < 2:
        raise BadInput(
            f"length is {length!r} and samples {samples!r}; allowed are 1 or more, 2 or more"
        )


def _contexts(bridge: Any, texts: list[str], length: int) -> list[Tensor]:
    ready = prompts_for(bridge, texts)
    limit, longest = inspect(bridge).n_ctx, int(ready.lengths.max())
    if limit is not None and longest + length > limit:
        raise BadInput(
            f"a context of {longest} tokens and {length} more do not fit in the model's {limit}; "
            f"length= may be at most {limit - longest}"
        )
    device = next(bridge.parameters()).device
    return [torch.from_numpy(ids.copy()).to(device) for ids in ready.tokens]


@torch.no_grad()
def _sample(
    bridge: Any, context: Tensor, temperature: float, length: int, n: int, generator: Any
) -> Tensor:
    """Continuations `[n, length]`, drawn on the CPU so that a seed means the same everywhere."""
    tokens = context.expand(n, -1)
    for _ in range(length):
        logits = bridge(tokens)[:, -1].double().cpu()
        drawn = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        tokens = torch.cat([tokens, drawn.to(tokens.device)], dim=1)
    return tokens[:, len(context) :]


@torch.no_grad()
def _log_prob(bridge: Any, context: Tensor, y: Tensor, temperature: float) -> Floats:
    """log P(y_t | context, y_<t) at the temperature: `[n, length]`."""
    tokens = torch.cat([context.expand(len(y), -1), y], dim=1)
    logits = bridge(tokens)[:, len(context) - 1 : -1].double() / temperature
    found = logits.log_softmax(-1).gather(-1, y[..., None]).squeeze(-1)
    return np.asarray(found.cpu().numpy(), np.float64)
