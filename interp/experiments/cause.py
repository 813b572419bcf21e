"""Geometry with a cause: what a block knows, what it writes, and what the model loses without it.

Three columns per block. *Known*: the lens of the state that the block leaves, against the final
prediction. *Written*: the block's share of the path. *Used*: the change of the prediction when the
block is left out. A block may write much that nobody uses, or little that everything hangs on. The
control is a push of the same size in a random direction.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import scipy
import torch
from torch import Tensor

from interp._arrays import Floats
from interp._progress import track
from interp.contract.columns import by_name
from interp.contract.options import names_of
from interp.contract.tokens import Tokens
from interp.errors import BadInput, InterpError, Unsupported, nearest
from interp.experiments.controls import with_untrained_copy
from interp.experiments.dose_response import random_directions, student_interval
from interp.experiments.interventions import (
    PUSHES,
    Hooks,
    LeftOut,
    check_parts,
    push_hooks,
    pushed,
)
from interp.experiments.steering import (
    Layers,
    Positions,
    batches,
    checked_direction,
    chosen,
    in_batch,
    layers_of,
    one_stack,
    prepared,
)
from interp.geometry import norm
from interp.models.answers import answered, unspaced
from interp.models.load import load_model
from interp.models.prefix import run_hooked, run_watched
from interp.prompts.labels import target_word
from interp.prompts.prompts import Prompts
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding
from interp.render.tokens import percent
from interp.stats.table import EVERYWHERE

Answer = str | int | Sequence[str | int] | None
"""One token, as text or id, or one for each prompt; None for none."""
MEASURES = ("kl", "log_prob", "logit_diff", "entropy", "later")
RANGES = {"*kl": (0.0, math.inf), "written": (0.0, 1.0), "later": (0.0, math.inf)}
"""Least and largest value of the columns that have them, as of an analysis."""
CLOUD = 4096  # tokens whose states make the directions "along" and "within"
ROWS = 512  # tokens whose distributions are compared at once
COLUMNS = {
    "layer": "block, 0 … L − 1; in `pushes` the state that is pushed",
    "known_kl": "KL(final ‖ lens) of the state that the block leaves, in nats: 0 if all is known",
    "written": "share of the block in the path length, 0 to 1",
    "used_kl": "KL(whole ‖ without the block) of the prediction, in nats",
    "random_kl": "control: KL when a random push of the size of the block's step is added instead",
    "used_log_prob": "change of the log-probability of the next token, or of that of targets=, "
    "without the block, nats",
    "used_logit_diff": "change of the logit difference target − against= without the block, logits",
    "later": "relative change of the steps of later blocks without the block",
    "prompts": "number of prompts",
    "*_low": "lower end of the interval of the value over prompts",
    "*_high": "upper end, likewise",
    "part": "the part of the block that was left out: block, attention or mlp",
    "kl": "KL(as it is ‖ changed) of the prediction, in nats",
    "log_prob": "change of the log-probability of the next token or that of targets=, in nats",
    "logit_diff": "change of the logit difference target − against=, in logits",
    "entropy": "change of the entropy of the prediction, in nats",
    "kind": "kind of the push, see `cause`",
    "dose": "size of the push, in multiples of the natural step",
    "lowest": "smallest KL of a single draw, in nats",
    "highest": "largest KL of a single draw, in nats",
    "draws": "pushes that were drawn; 1 for a direction that is not random",
}


@dataclass(frozen=True, eq=False, repr=False)
class Cause(Finding):
    """Known, written and used, by block: the answer of `cause`.

    Attributes:
        frame: one row per block; the columns of `COLUMNS`, and `*_low`, `*_high`, the interval over
            prompts.
        left_out: one row per block and `part`: `kl`, `log_prob` (change), `entropy` (change) and
            `later` with their intervals; with `against`, also `logit_diff` (change).
        pushes: one row per state, `kind` of push and `dose`: the same measures; for the random
            kinds the mean over the draws, with `lowest` and `highest` KL of single ones.
        group: the tokens, in words.
        confidence: of the intervals.
        notes: caveats.
    """

    name = "cause"
    question = "Which blocks does the prediction hang on, and are they those that move the stream?"
    columns = COLUMNS

    frame: pd.DataFrame
    left_out: pd.DataFrame
    pushes: pd.DataFrame
    group: str
    confidence: float = 0.95
    notes: tuple[str, ...] = ()

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """The table by block, what was left out, and the pushes."""
        return {"cause": self.frame, "left_out": self.left_out, "pushes": self.pushes}

    @property
    def sentence(self) -> str:
        """The block that is used most, with its control, and whether use follows writing."""
        top = self.frame.iloc[int(self.frame["used_kl"].to_numpy().argmax())]
        many = len(self.frame) > 2
        rank = (
            f"; over the blocks, what is written and what is used have a rank correlation of "
            f"{scipy.stats.spearmanr(self.frame['written'], self.frame['used_kl']).statistic:.2f}"
            if many
            else ""
        )
        return (
            f"the prediction hangs most on block {int(top['layer'])}: without it KL is "
            f"{top['used_kl']:.3g}{_band(top, 'used_kl')} nats, and a random push of the size of "
            f"its step gives {top['random_kl']:.3g}; it writes {percent(top['written'])} of the "
            f"path{rank}{self._answers()}"
        )

    def _answers(self) -> str:
        """The block without which the logit difference changes most; "" without two answers."""
        if "used_logit_diff" not in self.frame:
            return ""
        changes = np.abs(self.frame["used_logit_diff"].to_numpy(dtype=np.float64))
        if np.isnan(changes).all():
            return ""
        row = self.frame.iloc[int(np.nanargmax(changes))]
        return (
            f"; the logit difference of the two answers changes most without block "
            f"{int(row['layer'])}: by {row['used_logit_diff']:+.3g}{_band(row, 'used_logit_diff')}"
        )

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Used and known by block, and the pushes by dose."""
        drawn = {"Known and used": self._by_block()}
        if len(self.pushes):
            drawn["Pushes"] = self._by_dose()
        return drawn

    def _by_block(self) -> Drawing:
        lines = {
            "used: KL without the block": _line(self.frame, "used_kl"),
            "known: KL(final ‖ lens)": _line(self.frame, "known_kl"),
            "control: random push": _line(self.frame, "random_kl"),
        }
        return Drawing(
            "lines",
            f"Known and used, {self.group}",
            line_rows(lines),
            "KL (nats)",
            "block",
            f"Bands: {100 * self.confidence:g} %, over {int(self.frame['prompts'].max())} prompts.",
            "Grey: a random direction as long as the block's step is added instead.",
            options={"greys": ("control: random push",)},
        )

    def _by_dose(self) -> Drawing:
        layer = int(self.pushes["layer"].iloc[len(self.pushes) // 2])
        rows = self.pushes[self.pushes["layer"] == layer]
        names = {"dose": "x", "kl": "mean", "kl_low": "low", "kl_high": "high", "prompts": "n"}
        lines = {
            str(kind): part.rename(columns=names)[list(names.values())]
            for kind, part in rows.groupby("kind", sort=False)
        }
        return Drawing(
            "lines",
            f"State {layer} pushed, {self.group}",
            line_rows(lines),
            "KL (nats)",
            "dose (steps of the next block)",
            f"Bands: {100 * self.confidence:g} %, over prompts. All pushes but the rotation move "
            "the state by dose × the next step.",
            "Grey: random directions.",
            options={"greys": ("random",)},
        )


def _band(row: Any, name: str) -> str:
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    return f" [{low:.2g}, {high:.2g}]" if np.isfinite(low) else ""


def _line(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    columns = {"layer": "x", name: "mean", f"{name}_low": "low", f"{name}_high": "high"}
    return frame.rename(columns=columns)[[*columns.values()]]


def cause(
    model: Any,
    prompts: Any,
    *,
    layers: Layers = "all",
    positions: Positions | None = None,
    read: Positions | None = None,
    target: str | None = None,
    targets: Answer = None,
    against: Answer = None,
    parts: str | Sequence[str] = ("block", "attention", "mlp"),
    pushes: str | Sequence[str] = ("along", "random", "within", "plane", "rotate", "radial"),
    push_layers: Layers | None = None,
    doses: Sequence[float] = (0.5, 1.0, 2.0),
    direction: Any = None,
    controls: int = 3,
    seed: int = 0,
    confidence: float = 0.95,
    control: str | None = None,
    max_tokens: int = 2048,
    progress: bool = True,
) -> Cause:
    """Leave parts of the model out and push its stream, and measure what the prediction loses.

    Leaving out sets the term of a block to zero for the chosen tokens, or puts their states back to
    what they were before the block. That the term is really gone is verified in every pass. A push
    moves the state that enters block l by a multiple of what the block would do to it: ‖Δ_l‖, or
    for a rotation its angle; so a dose means the same at every depth.

    Args:
        model: a bridge, or anything `load_model` takes.
        prompts: as for `run`.
        layers: numbers of the blocks to leave out (0 … L − 1), or all.
        positions: tokens that are changed: all, last, positions such as 3,4, or a label such as
            role=target; by default every token that is not special. Negative positions count
            from the end, -1 is the last. In Python several positions are a list, and a label is
            `{"role": "target"}`.
        read: tokens whose prediction is measured, in the same form; by default those changed.
        target: a word: its tokens get the label role=target.
        targets: answer whose log-probability is measured, one token such as " her"; in Python also
            a list with one for each prompt. By default the next token.
        against: second answer, in the same form: the change of the target's logit minus that of
            the second answer is measured as well.
        parts: parts to leave out: block, attention or mlp.
        pushes: kinds of pushes: along (a direction), random, within (random within the states of
            these tokens), plane (the token's own turn), rotate (toward the next state, its norm
            kept) or radial (longer, its direction kept); none for no pushes, in Python `[]`.
        push_layers: states to push; by default three, spread over the depth.
        doses: multiples of the natural step.
        direction: in question, for the pushes along it, `[d_model]`; by default the mean step.
        controls: number of random directions of each random kind.
        seed: seed of the random directions.
        control: also measure an untrained copy of the model: random-init.
        progress: show a bar.

    `.frame` has one row per block, `.left_out` and `.pushes` what is behind it; intervals are
    Student's over prompts. Sources: leaving blocks out, Lad et al. 2406.19384 and Csordás et al.
    2505.13898; the lens as knowledge, nostalgebraist 2020.
    Raises: `BadInput` for a part, kind or layer that is not there, for tokens of which there are
    none, and for another number of answers than prompts; `Unsupported` for a model without
    verified terms or readout; `InterpError` for NaN.
    """
    model = load_model(model)
    anatomy, stack = one_stack(model, "cause")
    if anatomy.readout is None:
        raise Unsupported(
            f"{anatomy.model} has no verified readout, so nothing is known by the lens"
        )
    parts, pushes = names_of(parts), names_of(pushes)
    check_parts(parts, stack, anatomy.model)
    _check(pushes, doses, controls, confidence)
    blocks = _blocks(layers, stack)
    states = _push_layers(push_layers, stack.n_blocks, any_pushes=bool(pushes))
    ready = prepared(model, anatomy, prompts)
    own = len(ready.notes)
    ready = answered(model, ready, targets, against)
    said = (*ready.notes[own:], *unspaced(model, ready, targets, against))
    ready = ready.label(target_word(target)) if target is not None else ready
    changed = _tokens(ready, positions)
    setting = _Setting(
        model=model,
        stack=stack,
        readout=anatomy.readout,
        tolerance=max(anatomy.tolerance, 1e-4),
        ready=ready,
        passes=batches(model, anatomy, ready, max_tokens),
        changed=changed,
        read=changed if read is None else _tokens(ready, read),
    )
    cloud = _Cloud.of(setting, states, direction, seed) if pushes else None
    work = _Work(setting, blocks, tuple(parts), cloud, tuple(pushes), tuple(doses), controls, seed)
    measured = work.run(progress)
    found = Cause(
        _account(measured, blocks, confidence),
        _left_out(measured, confidence),
        _pushes(measured, confidence),
        _words(positions, target),
        confidence,
        (*said, *setting.notes()),
    )
    asked: dict[str, Any] = {
        "layers": layers, "positions": positions, "read": read, "target": target,
        "targets": targets, "against": against, "parts": parts, "pushes": pushes,
        "push_layers": push_layers, "doses": doses, "direction": direction, "controls": controls,
        "seed": seed, "confidence": confidence, "max_tokens": max_tokens, "progress": progress,
    }  # fmt: skip
    return with_untrained_copy(found, control, model, partial(cause, prompts=prompts, **asked))


# ---- what is asked -----------------------------------------------------------------------------


def _check(pushes: Sequence[str], doses: Sequence[float], controls: int, confidence: float) -> None:
    for kind in pushes:
        if kind not in PUSHES:
            raise BadInput(
                f"push {kind!r}{nearest(kind, PUSHES)}; allowed: {', '.join(PUSHES)}; without "
                "pushes: pushes=[] (--pushes none)"
            )
    if pushes and not (len(doses) and np.isfinite(list(doses)).all()):
        raise BadInput(f"doses {list(doses)}: expected finite numbers, one or more")
    if controls < 1 or not 0 < confidence < 1:
        raise BadInput(
            f"controls={controls}, confidence={confidence}: from 1 on, and between 0 and 1"
        )


def _blocks(layers: Layers, stack: Any) -> list[int]:
    """Numbers of blocks 0 … L − 1."""
    if layers == "all":
        return list(range(stack.n_blocks))
    wanted = [layers] if isinstance(layers, int) else list(layers)
    for block in wanted:
        if isinstance(block, int | np.integer) and not 0 <= block < stack.n_blocks:
            raise BadInput(
                f"block {block} is out of range: this model has blocks 0 … {stack.n_blocks - 1}"
            )
    return layers_of(wanted, stack)


def _push_layers(layers: Layers | None, n: int, *, any_pushes: bool) -> list[int]:
    """States 0 … L − 1 that are pushed; the size of a push is the step of the block after it."""
    if not any_pushes:
        return []
    if layers is None:
        return sorted({0, n // 2, n - 1})
    wanted = list(range(n)) if layers == "all" else layers
    wanted = [wanted] if isinstance(wanted, int) else list(wanted)
    for layer in wanted:
        if not 0 <= int(layer) < n:
            raise BadInput(
                f"state {layer} cannot be pushed: allowed are 0 … {n - 1}, the states that enter a "
                "block"
            )
    return sorted({int(layer) for layer in wanted})


def _tokens(ready: Prompts, positions: Positions | None) -> Tensor:
    """Tokens `[prompt, longest]`, the ones that are not special unless named."""
    if positions is not None:
        return chosen(positions, ready)
    out = torch.zeros(len(ready), int(ready.lengths.max()), dtype=torch.bool, device="cpu")
    for i, special in enumerate(ready.left_out):
        out[i, : len(special)] = torch.from_numpy(~special)
    if not bool(out.any()):
        raise BadInput("all tokens of these prompts are special; name some by positions=")
    return out


def _words(positions: Positions | None, target: str | None) -> str:
    if positions is None:
        return "all ordinary tokens"
    if isinstance(positions, Mapping):
        named = ", ".join(f"{k} {v}" for k, v in positions.items())
        return f"tokens with {named}" + (f" ({target!r})" if target else "")
    return "chosen tokens" if isinstance(positions, Tensor) else f"positions {positions}"


# ---- passes ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Setting:
    """The model, its prompts and the tokens in question."""

    model: Any
    stack: Any
    readout: Any
    tolerance: float
    ready: Prompts
    passes: list[Tokens]
    changed: Tensor
    read: Tensor

    def watched(
        self, batch: Tokens, mask: Tensor, hooks: Hooks | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits and the states of the masked tokens, `[n, d_model]` for each of L + 1."""
        return run_watched(self.model, batch, self.stack.boundaries, mask, hooks or [])

    def notes(self) -> tuple[str, ...]:
        lost = int((~self.read.any(-1)).sum())
        return (f"{lost} prompts have no token that is read; they are left out.",) if lost else ()


@dataclass(frozen=True, eq=False)
class _Cloud:
    """States and steps of the tokens in question at the pushed layers, for directions.

    Attributes:
        along: by state, the direction in question `[d_model]`.
        states: by state, centred states `[n, d_model]`.
    """

    along: dict[int, Tensor]
    states: dict[int, Tensor]

    @classmethod
    def of(cls, setting: _Setting, layers: list[int], direction: Any, seed: int) -> _Cloud:
        """From one pass over the prompts; of many tokens a random part is kept."""
        given = None if direction is None else checked_direction(direction)
        rows: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        steps: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        generator = torch.Generator().manual_seed(seed)
        room = max(1, CLOUD // max(1, len(setting.passes)))
        for batch in setting.passes:
            mask = in_batch(setting.changed, batch)
            _, states = setting.watched(batch, mask)
            kept = torch.randperm(int(mask.sum()), generator=generator, device="cpu")[:room]
            for layer in layers:
                rows[layer].append(states[layer][kept])
                steps[layer].append((states[layer + 1] - states[layer])[kept])
        cloud = {layer: torch.cat(found) for layer, found in rows.items()}
        return cls(
            {
                layer: torch.cat(found).mean(0) if given is None else given
                for layer, found in steps.items()
            },
            {layer: found - found.mean(0) for layer, found in cloud.items()},
        )

    def direction(self, kind: str, layer: int, draw: int, seed: int) -> Tensor | None:
        """Direction `[d_model]` of a push, None for the kinds that need none."""
        if kind == "along":
            return self.along[layer]
        states = self.states[layer]
        if kind == "random":
            return random_directions(states.new_ones(states.shape[1]), draw + 1, seed)[draw]
        if kind == "within":
            # A Gaussian mixture of centred states has their covariance.
            generator = torch.Generator().manual_seed(seed * 1000 + draw)
            weights = torch.randn(
                len(states), generator=generator, dtype=torch.float64, device="cpu"
            )
            return (weights.to(states.device, states.dtype) @ states).cpu()
        return None


Key = tuple[str, int, str, float, int]  # left out or pushed, layer, part or kind, dose, draw


@dataclass(eq=False)
class _Work:
    """All interventions, batch by batch; per key and measure one number per prompt."""

    setting: _Setting
    blocks: list[int]
    parts: tuple[str, ...]
    cloud: _Cloud | None
    pushes: tuple[str, ...]
    doses: tuple[float, ...]
    controls: int
    seed: int
    found: dict[Key, dict[str, Floats]] = field(default_factory=dict)

    def run(self, progress: bool) -> dict[Key, dict[str, Floats]]:
        """Runs everything; `[prompts]` per measure, NaN for prompts that are not read."""
        keys = list(self._keys())
        work = [(batch, key) for batch in self.setting.passes for key in [None, *keys]]
        plain: _Plain | None = None
        with torch.no_grad():
            for batch, key in track(work, "passes", enabled=progress):
                if key is None:
                    plain = _Plain.of(self.setting, batch)
                    self._known(plain)
                elif plain is not None and plain.changes:
                    self._change(plain, key)
        return self.found

    def _keys(self) -> Iterator[Key]:
        for layer in self.blocks:
            for part in dict.fromkeys(("block", *self.parts)):
                yield "out", layer, part, 0.0, 0
            for draw in range(self.controls):
                yield "beside", layer, "random", 1.0, draw
        for layer in self.cloud.along if self.cloud is not None else ():
            for kind in self.pushes:
                for dose in self.doses:
                    for draw in range(self.controls if kind in ("random", "within") else 1):
                        yield "push", layer, kind, dose, draw

    def _known(self, plain: _Plain) -> None:
        path = torch.stack([norm(b - a) for a, b in plain.pairs()])
        shares = path / path.sum(0)
        for layer in self.blocks:
            lens = torch.cat(
                [self.setting.readout.logits(x) for x in torch.split(plain.states[layer + 1], ROWS)]
            )
            self._put(("known", layer, "", 0.0, 0), plain, {"kl": _kl(plain.log_p, lens)})
            self._put(("written", layer, "", 0.0, 0), plain, {"share": shares[layer]})

    def _change(self, plain: _Plain, key: Key) -> None:
        what, layer, part, dose, _ = key
        batch, where = plain.batch, plain.changed
        after = None
        if what == "out":
            left = LeftOut(self.setting.stack, layer, part, where)
            if not left.possible:
                return
            logits, states = self.setting.watched(batch, plain.read, left.hooks())
            left.check(self.setting.tolerance)
            after = layer + 1
        else:
            name, pushed_states = self._pushed(plain, key)
            hooks = push_hooks(name, where, pushed_states)
            logits, states = run_hooked(self.setting.model, batch, hooks), []
        self._put(key, plain, plain.outcome(logits, states, after, (what, layer, part, dose)))

    def _pushed(self, plain: _Plain, key: Key) -> tuple[str, Tensor]:
        what, layer, kind, dose, draw = key
        x, after = plain.own[layer], plain.own[layer + 1]
        names = self.setting.stack.boundaries
        if what == "beside":  # the control of leaving out: as far, after the block
            direction = random_directions(x.new_ones(x.shape[1]), draw + 1, self.seed)[draw]
            step = pushed("random", x, after, dose, direction) - x
            return names[layer + 1], after + step
        assert self.cloud is not None  # noqa: S101  there are no pushes without it
        direction_or_none = self.cloud.direction(kind, layer, draw, self.seed)
        return names[layer], pushed(kind, x, after, dose, direction_or_none)

    def _put(self, key: Key, plain: _Plain, values: Mapping[str, Tensor]) -> None:
        """The mean over the tokens that are read, of each prompt of a batch that has any."""
        store = self.found.setdefault(key, {})
        row = plain.read.nonzero()[:, 0].numpy()
        count = np.bincount(row, minlength=len(plain.batch.ids))
        for name, value in values.items():
            out = store.setdefault(name, np.full(len(self.setting.ready), np.nan))
            numbers = value.double().cpu().numpy()
            known = np.isfinite(numbers)
            n = np.bincount(row[known], minlength=len(count))
            total = np.bincount(row[known], weights=numbers[known], minlength=len(count))
            some = n > 0
            out[plain.batch.ids.numpy()[some]] = total[some] / n[some]


@dataclass(frozen=True, eq=False)
class _Plain:
    """One batch without any change.

    Attributes:
        changed, read: bool `[batch, pos]`.
        log_p: log-probabilities of the tokens that are read, `[n, vocab]` float32.
        states: states of the tokens that are read, `[n, d_model]` for each of L + 1.
        own: states of the tokens that are changed.
        targets: `[n]`, the next token or the answer, -1 for none.
        contrasts: `[n]`, the second answer; None without one.
    """

    batch: Tokens
    changed: Tensor
    read: Tensor
    log_p: Tensor
    states: list[Tensor]
    own: list[Tensor]
    targets: Tensor
    contrasts: Tensor | None = None

    @classmethod
    def of(cls, setting: _Setting, batch: Tokens) -> _Plain:
        changed, read = in_batch(setting.changed, batch), in_batch(setting.read, batch)
        both = changed | read
        logits, states = setting.watched(batch, both)
        log_p = logits[read.to(logits.device)].float().log_softmax(-1)
        if bool(log_p.isnan().any()):
            raise InterpError("the model yields NaN; try bfloat16 or float32")
        return cls(
            batch,
            changed,
            read,
            log_p,
            [x[read[both]] for x in states],
            [x[changed[both]] for x in states],
            batch.targets[read],
            None if batch.contrasts is None else batch.contrasts[read],
        )

    @property
    def changes(self) -> bool:
        """Whether this batch has a token to change and one to read."""
        return bool(self.changed.any()) and bool(self.read.any())

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """States before and after each block."""
        return list(zip(self.states, self.states[1:], strict=False))

    def outcome(
        self, logits: Tensor, states: list[Tensor], after: int | None, what: tuple[Any, ...]
    ) -> dict[str, Tensor]:
        """The measures of a changed pass against this one, per token that is read `[n]`."""
        changed = logits[self.read.to(logits.device)].float()
        if bool(changed.isnan().any()):
            raise InterpError(
                f"the model yields NaN when it is changed ({', '.join(map(str, what))}); try "
                "smaller doses, bfloat16 or float32"
            )
        out = {"kl": _kl(self.log_p, changed)}
        log_q = changed.log_softmax(-1)
        gain = log_q - self.log_p
        out["log_prob"] = _of_answers(gain, self.targets)
        if self.contrasts is not None:  # the normaliser drops out: log-probabilities do
            out["logit_diff"] = out["log_prob"] - _of_answers(gain, self.contrasts)
        out["entropy"] = _entropy(log_q) - _entropy(self.log_p)
        if after is not None:
            out["later"] = self._later(states, after)
        return out

    def _later(self, states: list[Tensor], after: int) -> Tensor:
        """Mean over the blocks from `after` on of ‖Δ′ − Δ‖/‖Δ‖; NaN for the last block."""
        changes = [
            norm((b - a) - (y - x)) / norm(y - x)
            for (x, y), a, b in zip(
                self.pairs()[after:], states[after:-1], states[after + 1 :], strict=True
            )
        ]
        if not changes:
            return torch.full((len(self.log_p),), torch.nan)
        return torch.stack(changes).mean(0)


def _of_answers(values: Tensor, ids: Tensor) -> Tensor:
    """Entries of `[n, vocab]` at the ids `[n]`: `[n]`, NaN where the id is -1."""
    ids = ids.to(values.device)
    found = values.gather(-1, ids.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(ids >= 0, found, torch.nan)


def _kl(log_p: Tensor, logits: Tensor) -> Tensor:
    """KL(p ‖ softmax(logits)) per row `[n]`, in nats and in float64, some rows at a time."""
    parts = []
    for p, z in zip(torch.split(log_p, ROWS), torch.split(logits, ROWS), strict=True):
        q = z.float().log_softmax(-1)
        parts.append((p.double().exp() * (p.double() - q.double())).nan_to_num().sum(-1))
    return torch.cat(parts) if parts else log_p.new_zeros(0).double()


def _entropy(log_p: Tensor) -> Tensor:
    return torch.cat(
        [-(p.double().exp() * p.double()).nan_to_num().sum(-1) for p in torch.split(log_p, ROWS)]
    )


# ---- tables ------------------------------------------------------------------------------------


def _summary(values: Floats, name: str, confidence: float) -> dict[str, float]:
    known = values[np.isfinite(values)]
    low, high = student_interval(known, confidence, by_name(RANGES, name) or EVERYWHERE)
    mean = float(known.mean()) if len(known) else float("nan")
    return {name: mean, f"{name}_low": low, f"{name}_high": high}


def _account(
    found: Mapping[Key, Mapping[str, Floats]], blocks: Sequence[int], confidence: float
) -> pd.DataFrame:
    rows = []
    for layer in blocks:
        out = found["out", layer, "block", 0.0, 0]
        beside = [v["kl"] for key, v in found.items() if key[:2] == ("beside", layer)]
        columns = {
            "known_kl": found["known", layer, "", 0.0, 0]["kl"],
            "written": found["written", layer, "", 0.0, 0]["share"],
            "used_kl": out["kl"],
            "random_kl": np.mean(beside, axis=0),
            "used_log_prob": out["log_prob"],
            **({"used_logit_diff": out["logit_diff"]} if "logit_diff" in out else {}),
            "later": out["later"],
        }
        row: dict[str, Any] = {"layer": layer}
        for name, values in columns.items():
            row |= _summary(values, name, confidence)
        rows.append(row | {"prompts": int(np.isfinite(out["kl"]).sum())})
    return pd.DataFrame(rows)


def _left_out(found: Mapping[Key, Mapping[str, Floats]], confidence: float) -> pd.DataFrame:
    rows = []
    for (what, layer, part, _, _), values in found.items():
        if what == "out":
            row: dict[str, Any] = {"layer": layer, "part": part}
            for name in (m for m in MEASURES if m in values):
                row |= _summary(values[name], name, confidence)
            rows.append(row | {"prompts": int(np.isfinite(values["kl"]).sum())})
    return pd.DataFrame(rows).sort_values(["part", "layer"], ignore_index=True)


def _pushes(found: Mapping[Key, Mapping[str, Floats]], confidence: float) -> pd.DataFrame:
    grouped: dict[tuple[int, str, float], list[Mapping[str, Floats]]] = {}
    for (what, layer, kind, dose, _), values in found.items():
        if what == "push":
            grouped.setdefault((layer, kind, dose), []).append(values)
    rows = []
    for (layer, kind, dose), draws in grouped.items():
        row: dict[str, Any] = {"layer": layer, "kind": kind, "dose": dose}
        for name in (m for m in MEASURES if m in draws[0]):
            row |= _summary(np.mean([d[name] for d in draws], axis=0), name, confidence)
        single = [float(np.nanmean(d["kl"])) for d in draws]
        row |= {"lowest": min(single), "highest": max(single), "draws": len(draws)}
        rows.append(row | {"prompts": int(np.isfinite(draws[0]["kl"]).sum())})
    return pd.DataFrame(rows)
