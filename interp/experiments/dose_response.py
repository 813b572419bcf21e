"""Dose–response: change of a prediction as the stream is steered more and more.

The control is random directions of the same norm. The prompt is the sampling unit: every interval
is over prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy
import torch
from torch import Tensor

from interp._arrays import Floats
from interp._progress import track
from interp.contract.tokens import Tokens
from interp.errors import BadInput, InterpError, unknown
from interp.experiments.steering import (
    KINDS,
    Kind,
    Layers,
    Positions,
    Steer,
    batches,
    checked_direction,
    chosen,
    in_batch,
    layers_of,
    one_stack,
    prepared,
)
from interp.models.prefix import PrefixReuse
from interp.prompts.prompts import Prompts
from interp.prompts.tokens import token_id
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding
from interp.stats.paired import within_range
from interp.stats.table import EVERYWHERE

RANDOM = "random directions"
RANDOM_NOTE = (
    "Grey: random directions of the same norm, their mean and the range of the single ones. "
    "random_p compares the size of effects, whatever their sign."
)
COLUMNS = {
    "direction": "'given', or 'random': directions of the same norm, the control",
    "dose": "amount of steering: multiples of the vector, part taken out, or degrees",
    "mean": "mean of the measure over prompts",
    "effect": "measure minus that of the same prompt unsteered; in the first table the mean",
    "low": "lower end of the interval of the mean effect over prompts",
    "high": "upper end, likewise",
    "prompts": "prompts measured; count",
    "lowest": "smallest mean effect of a single random direction",
    "highest": "largest one",
    "random_p": "share of directions, the given one among them, whose mean effect is at least as "
    "large in size, whatever its sign; never 0",
    "prompt": "number of the prompt, from 0",
    "draw": "number of the random direction, −1 for the given one",
    "value": "the measure of that prompt: log-probability (nats) or logit difference",
}
Key = tuple[int, float]  # number of the direction, −1 for the given one, and dose
DOSES: dict[str, tuple[float, ...]] = {
    "add": (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0),
    "project": (0.0, 0.5, 1.0),
    "rotate": (-30.0, -15.0, 0.0, 15.0, 30.0, 60.0),
}
MEASURES = {"log_prob": "log_prob", "logit_difference": "logit difference"}
UNITS = {"add": "multiples of the vector", "project": "part taken out", "rotate": "degrees"}


@dataclass(frozen=True, eq=False, repr=False)
class DoseResponse(Finding):
    """Effect of steering by dose: the answer of `dose_response`.

    Attributes:
        frame: one row per dose and `direction` ("given" or "random", the control):
            `mean`, the measure at this dose; `effect`, its change from dose 0; `low`, `high`, the
            interval of the effect over prompts; `prompts`, their number. For random directions
            the effect of a prompt is the mean over the directions, and `lowest`, `highest` are
            the extreme mean effects of single ones. For the given one `random_p` is the share
            of directions, itself among them, whose mean effect is at least as large in size.
        effects: the rows behind it: `prompt`, `direction`, `draw` (number of the random
            direction, -1 for the given one), `dose`, `value`, `effect`.
        measure: "log_prob" (nats) or "logit_difference".
        kind, target, confidence: as given by the caller.
        notes: caveats.
    """

    name = "steer"
    question = "Does the prediction move with the dose, and more than along random directions?"
    columns = COLUMNS

    frame: pd.DataFrame
    effects: pd.DataFrame
    measure: str
    kind: str
    target: str
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Unit of the doses."""
        return UNITS[self.kind]

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Mean effects, and the rows behind them."""
        return {"steer": self.frame, "effects": self.effects}

    @property
    def sentence(self) -> str:
        """The largest effect, against that of random directions at the same dose."""
        given = self.frame[self.frame["direction"] == "given"]
        top = given.iloc[int(given["effect"].abs().to_numpy().argmax())]
        unit = "nats" if self.measure == "log_prob" else "logits"
        band = f" [{top['low']:+.3g}, {top['high']:+.3g}]" if np.isfinite(top["low"]) else ""
        return (
            f"steering ({self.kind}) by {top['dose']:g} {self.unit} changes "
            f"{MEASURES[self.measure]} of {self.target} by {top['effect']:+.3g}{band} "
            f"{unit} over {int(top['prompts'])} prompts; {self._beside(top['dose'])}"
        )

    def _beside(self, dose: float) -> str:
        """The random directions at one dose, and p of the given one."""
        rows = self.frame[self.frame["dose"] == dose]
        given, random = (rows[rows["direction"] == name] for name in ("given", "random"))
        if random.empty:
            return "no random directions were run to compare it with"
        effect, low, high = random[["effect", "lowest", "highest"]].iloc[0]
        return (
            f"random directions of the same norm: {effect:+.3g} on average, single ones "
            f"{low:+.3g} to {high:+.3g} (p = {given['random_p'].iloc[0]:.2g})"
        )

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """The curve with its band, and the random directions in grey."""
        return {"Effect by dose": self._drawing()}

    def _drawing(self) -> Drawing:
        random = self.frame[self.frame["direction"] == "random"]
        given = self.frame[self.frame["direction"] == "given"]
        names = {"dose": "x", "effect": "mean", "prompts": "n"}
        lines = {"given direction": given[["dose", "effect", "low", "high", "prompts"]]}
        if len(random):
            spread = random[["dose", "effect", "lowest", "highest", "prompts"]]
            lines[RANDOM] = spread.rename(columns={"lowest": "low", "highest": "high"})
        unit = "nats" if self.measure == "log_prob" else "logits"
        what = MEASURES[self.measure]
        return Drawing(
            "lines",
            f"Steering by {self.kind}: {what} of {self.target}",
            line_rows({name: rows.rename(columns=names) for name, rows in lines.items()}),
            f"change of {what} ({unit})",
            f"dose ({self.unit})",
            f"Mean over {int(self.frame['prompts'].max())} prompts. "
            f"Band: {100 * self.confidence:g} %, over prompts.",
            RANDOM_NOTE if len(random) else "",
            options={"greys": (RANDOM,)},
        )


def dose_response(
    model: Any,
    prompts: Any,
    direction: Any,
    *,
    kind: Kind = "add",
    doses: Sequence[float] | None = None,
    layers: Layers,
    positions: Positions = "all",
    targets: str | int | tuple[str | int, str | int],
    read: Positions = "last",
    controls: int = 8,
    seed: int = 0,
    confidence: float = 0.95,
    max_tokens: int = 4096,
    progress: bool = True,
) -> DoseResponse:
    """Steer with growing doses and measure the prediction of a target.

    The measure is log P(target) in nats, or for a pair (a, b) the difference of their logits
    after the model's output transform, log P(a) − log P(b). It is read at `read` and averaged
    within a prompt; intervals are Student's over prompts. The control is `controls` random
    directions, uniform on the sphere with the norm of the given one, steered in the same way.
    Random directions are isotropic and the stream is not: along most of them it varies little.
    A larger effect therefore shows that the direction matters, not which property of it does.

    Args:
        model: a bridge.
        prompts: any source that `interp.run` takes; with labels, for positions by label.
        direction: `[d_model]`.
        kind: "add", "project" or "rotate"; see `Steer`.
        doses: multiples of the vector, part taken out, or degrees; 0 is always measured.
        layers: states that are steered.
        positions: tokens that are steered: "all" (BOS included), "last", columns, a mask
            `[prompt, longest]`, or a label such as `{"role": "target"}`.
        targets: a token or a pair of tokens, by text or id.
        read: tokens whose prediction is read, as `positions`. A token that stands before the
            steered ones is not affected in a causal model.
        controls: number of random directions, 0 for none.
        seed: of the random directions.
        progress: show a bar.

    Each direction and dose takes one pass. In a causal model the pass starts at the first token
    that any prompt of the batch steers or reads, so "last" costs least.

    Raises: `BadInput`, `UnknownName`, `Unsupported` before the first pass; `InterpError` where a
    steered model yields NaN. Nothing stays attached.
    """
    anatomy, stack = one_stack(model, "dose_response")
    pair = targets if isinstance(targets, tuple) else (targets,)
    ids = _target_ids(model, pair)
    amounts = _doses(doses, kind)
    if controls < 0 or not 0 < confidence < 1:
        raise BadInput(f"controls={controls}, confidence={confidence}: from 0, and within 0 … 1")
    steers = _steers(direction, kind, amounts, layers_of(layers, stack), controls, seed)
    steers[-1, 0.0].hooks(model)  # a vector that does not fit is refused before the first pass
    ready = prepared(model, anatomy, prompts)
    passes = batches(model, anatomy, ready, max_tokens)
    measured = _Measured(model, ready, passes, ids, positions, read)
    effects = _effects(measured.values(steers, anatomy.tolerance, progress), controls)
    return DoseResponse(
        frame=summarise(effects, confidence),
        effects=effects,
        measure="log_prob" if len(ids) == 1 else "logit_difference",
        kind=kind,
        target=" − ".join(repr(token) for token in pair),
        confidence=confidence,
        notes=measured.notes(controls),
    )


def _target_ids(model: Any, pair: tuple[str | int, ...]) -> list[int]:
    if len(pair) not in (1, 2):
        raise BadInput(f"targets has {len(pair)} tokens; allowed are one, or a pair to compare")
    ids = [token_id(model, token, "target") for token in pair]
    if len(set(ids)) < len(ids):
        raise BadInput(f"both targets are the token {pair[0]!r}: their difference is always 0")
    return ids


def _steers(
    direction: Any, kind: Kind, amounts: list[float], layers: list[int], controls: int, seed: int
) -> dict[Key, Steer]:
    """A steer per (draw, dose): draw -1 is the given direction; dose 0 is the same for all."""
    given = checked_direction(direction).detach().float().cpu()
    vectors = [given, *random_directions(given, controls, seed)]
    return {
        (draw, dose): Steer(kind, vector, dose, layers)
        for draw, vector in enumerate(vectors, -1)
        for dose in amounts
        if dose != 0 or draw < 0
    }


def _doses(doses: Sequence[float] | None, kind: str) -> list[float]:
    if kind not in KINDS:
        raise unknown("kind of steering", str(kind), KINDS)
    given = DOSES[kind] if doses is None else doses
    amounts = [float(dose) for dose in given]
    if not np.isfinite(amounts).all():
        raise BadInput(f"doses {list(given)} are not all finite numbers")
    if not any(amounts):
        raise BadInput("doses hold nothing but 0: there is no response to measure")
    return sorted({0.0, *amounts})


def random_directions(vector: Tensor, n: int, seed: int) -> list[Tensor]:
    """`n` vectors uniform on the sphere that has the norm of `vector [d]`."""
    generator = torch.Generator().manual_seed(seed)
    # On the CPU in float64: a seed then means the same directions on every device.
    draws = torch.randn(n, len(vector), generator=generator, dtype=torch.float64, device="cpu")
    scaled = draws / draws.norm(dim=-1, keepdim=True) * vector.double().norm()
    return list(scaled.to(vector.dtype))


class _Measured:
    """Measures every prompt under every steer."""

    def __init__(
        self,
        model: Any,
        prompts: Prompts,
        passes: list[Tokens],
        ids: list[int],
        positions: Positions,
        read: Positions,
    ) -> None:
        self.model, self.prompts, self.passes, self.ids = model, prompts, passes, ids
        self.steered, self.read = chosen(positions, prompts), chosen(read, prompts)
        if not bool(self.read.any(-1).any()):
            raise BadInput("no token is read")

    def values(
        self, steers: Mapping[Key, Steer], tolerance: float, progress: bool
    ) -> dict[Key, Floats]:
        """One number per prompt and steer; NaN for prompts without a token that is read."""
        out = {key: np.full(len(self.prompts), np.nan) for key in steers}
        # All steers of a batch in a row, so that they share the cache of its unsteered beginning.
        work = [(batch, key) for batch in self.passes for key in steers]
        shared: PrefixReuse | None = None
        with torch.no_grad():
            for batch, key in track(work, "steered passes", enabled=progress):
                if shared is None or shared.batch is not batch:
                    touched = in_batch(self.steered | self.read, batch)
                    shared = PrefixReuse(self.model, batch, touched, tolerance)
                self._fill(out[key], shared, steers[key])
        return out

    def _fill(self, out: Floats, shared: PrefixReuse, steer: Steer) -> None:
        """The mean over the tokens that are read, of each prompt of a batch that has any."""
        batch, first = shared.batch, shared.first
        where, read = (in_batch(m, batch)[:, first:] for m in (self.steered, self.read))
        logits = shared.logits(self._at(steer, where).hooks(self.model))
        values = self._measure(logits[read.to(logits.device)]).cpu().numpy()
        if np.isnan(values).any():
            raise InterpError(
                f"the model yields NaN when steered ({steer.kind} {steer.amount:g}); in "
                "float16 this is often an overflow: try smaller doses, bfloat16 or float32"
            )
        row = read.nonzero()[:, 0].numpy()
        count = np.bincount(row, minlength=len(batch.ids))
        total = np.bincount(row, weights=values, minlength=len(batch.ids))
        some = count > 0
        out[batch.ids.numpy()[some]] = total[some] / count[some]

    def _at(self, steer: Steer, where: Tensor) -> Steer:
        return Steer(steer.kind, steer.vector, steer.amount, steer.layers, where, steer.stack)

    def _measure(self, logits: Tensor) -> Tensor:
        # In float64: effects are differences of nearly equal log-probabilities.
        log_p = torch.log_softmax(logits.double(), dim=-1)
        first = log_p[:, self.ids[0]]
        return first if len(self.ids) == 1 else first - log_p[:, self.ids[1]]

    def notes(self, controls: int) -> tuple[str, ...]:
        out = []
        unsteered = int((~self.steered.any(-1)).sum())
        unread = int((~self.read.any(-1)).sum())
        if unsteered:
            out.append(f"{unsteered} prompts have no token that is steered; their effect is 0.")
        if unread:
            out.append(f"{unread} prompts have no token that is read; they are left out.")
        if 0 < controls < 19:
            out.append(
                f"With {controls} random directions random_p cannot be below "
                f"{1 / (1 + controls):.2g}."
            )
        return tuple(out)


def _effects(values: dict[Key, Floats], controls: int) -> pd.DataFrame:
    """Rows per prompt, direction and dose; the unsteered run stands for every dose 0."""
    baseline = values[-1, 0.0]
    keep = ~np.isnan(baseline)
    # At dose 0 all directions are the same run, which is therefore made once.
    for draw in range(controls):
        values[draw, 0.0] = baseline
    parts = [
        pd.DataFrame(
            {
                "prompt": np.flatnonzero(keep),
                "direction": "given" if draw < 0 else "random",
                "draw": draw,
                "dose": dose,
                "value": value[keep],
                "effect": (value - baseline)[keep],
            }
        )
        for (draw, dose), value in sorted(values.items())
    ]
    return pd.concat(parts, ignore_index=True)


def summarise(effects: pd.DataFrame, confidence: float = 0.95) -> pd.DataFrame:
    """The table of a `DoseResponse` from its rows per prompt, direction and dose.

    `random_p` = (1 + #{random directions with |mean effect| ≥ the given one's}) / (1 + their
    number), never 0 (Phipson & Smyth 2010); NaN at dose 0 and without random directions.
    """
    frame = pd.DataFrame(
        [
            {"direction": kind, "dose": dose} | _row(part, confidence)
            for (kind, dose), part in effects.groupby(["direction", "dose"], sort=True)
        ]
    )
    spread = ["lowest", "highest"]
    frame.loc[frame["direction"] == "given", spread] = np.nan
    means = effects.groupby(["direction", "dose", "draw"])["effect"].mean().reset_index()
    random = means[means["direction"] == "random"]
    frame["random_p"] = [
        _random_p(row.effect, random.loc[random["dose"] == row.dose, "effect"].to_numpy())
        if row.direction == "given" and row.dose != 0
        else np.nan
        for row in frame.itertuples()
    ]
    return frame


def _row(part: pd.DataFrame, confidence: float) -> dict[str, float]:
    per_prompt = part.groupby("prompt")[["value", "effect"]].mean()
    single = part.groupby("draw")["effect"].mean()
    low, high = student_interval(per_prompt["effect"].to_numpy(), confidence)
    return {
        "mean": float(per_prompt["value"].mean()),
        "effect": float(per_prompt["effect"].mean()),
        "low": low,
        "high": high,
        "prompts": len(per_prompt),
        "lowest": float(single.min()),
        "highest": float(single.max()),
    }


def _random_p(effect: Any, others: Floats) -> float:
    if not len(others):
        return float("nan")
    return float((1 + (np.abs(others) >= abs(effect)).sum()) / (1 + len(others)))


def student_interval(
    values: Floats, confidence: float, ends: tuple[float, float] = EVERYWHERE
) -> tuple[float, float]:
    """Mean ± t·s/√n of independent values; NaN below two.

    `ends`: the range of the values, in which the interval stays (`interp.stats.within_range`).

    >>> [round(x, 4) for x in student_interval(np.array([1.0, 2.0, 3.0]), 0.95)]
    [-0.4841, 4.4841]
    >>> [round(x, 4) for x in student_interval(np.array([1.0, 2.0, 3.0]), 0.95, (0, np.inf))]
    [0.5776, 6.9255]
    """
    n = len(values)
    if n < 2:
        return float("nan"), float("nan")
    half = scipy.stats.t.ppf((1 + confidence) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n)
    low, high = within_range(values.mean(), half, *ends)
    return float(low), float(high)
