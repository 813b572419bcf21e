"""The tuned lens: an affine map per state, fitted so that the lens says what the model says.

Knows passes, a loss and an optimiser; the maps themselves are `interp.models.Translators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from interp._arrays import Floats
from interp._files import atomic, refuse_existing
from interp._progress import track
from interp.contract.tokens import Tokens
from interp.errors import BadInput, InterpError, Unsupported
from interp.experiments.dose_response import student_interval
from interp.experiments.steering import batches, one_stack, prepared
from interp.geometry import at_least_float32
from interp.models.load import load_model
from interp.models.prefix import run_watched
from interp.models.readout import Readout
from interp.models.translators import Translators, sampled_norms
from interp.render.drawing import Drawing, line_rows
from interp.render.finding import Finding

DRAWN = 256  # tokens of a step; of longer batches a random part is used
FINAL_RATE = 0.1  # of the first one, reached at the last step


COLUMNS = {
    "layer": "number of the state that is translated, 0 … L − 1",
    "tuned_kl": "KL(final ‖ lens) with its translator, on prompts that were not fitted on; nats",
    "plain_kl": "the same without it: the plain lens; nats",
    "gain": "plain_kl − tuned_kl; nats",
    "*_low": "lower end of its 95 % interval over prompts",
    "*_high": "upper end, likewise",
    "prompts": "prompts that were not fitted on; count",
    "step": "step of the fit, from 0",
    "kl": "KL(final ‖ lens) at that step, mean over the states; nats",
}


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(Finding):
    """A fitted lens and its loss on held-out prompts: the answer of `fit_tuned_lens`.

    Attributes:
        frame: one row per state that is translated: `layer`, `tuned_kl` and `plain_kl`, KL(final ‖
            lens) in nats with and without its translator on prompts that were not fitted on, with
            their intervals over prompts; `gain`, their difference; `prompts`.
        losses: one row per step of the fit: `step`, `kl`, the mean over the states.
        translators: the maps.
        path: the file with the maps.
        notes: caveats.
    """

    name = "tuned_lens"
    question = "How much more does a state say once it is translated into the basis of the last?"
    columns = COLUMNS

    frame: pd.DataFrame
    losses: pd.DataFrame
    translators: Translators
    path: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def tables(self) -> Mapping[str, pd.DataFrame]:
        """Held-out loss by state, and the loss of every step."""
        return {"tuned_lens": self.frame, "losses": self.losses}

    @property
    def sentence(self) -> str:
        """The mean gain on held-out prompts, and the state that gains most."""
        top = self.frame.iloc[int(self.frame["gain"].to_numpy().argmax())]
        worse = int((self.frame["gain"] < 0).sum())
        return (
            f"on {int(self.frame['prompts'].max())} prompts that were not fitted on, translators "
            f"lower KL(final ‖ lens) from {self.frame['plain_kl'].mean():.3g} (the plain lens) to "
            f"{self.frame['tuned_kl'].mean():.3g} nats on average, most at state "
            f"{int(top['layer'])} (from {top['plain_kl']:.3g} to {top['tuned_kl']:.3g})"
            + (f"; {worse} states are worse with them" if worse else "")
        )

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Both losses by state."""
        lines = {
            what: self.frame.rename(
                columns={"layer": "x", name: "mean", f"{name}_low": "low", f"{name}_high": "high"}
            )[["x", "mean", "low", "high"]]
            for what, name in (("translated", "tuned_kl"), ("plain lens", "plain_kl"))
        }
        drawing = Drawing(
            "lines",
            "KL(final ‖ lens) on held-out prompts",
            line_rows(lines),
            "KL (nats)",
            "state",
            "Bands: 95 %, over prompts.",
            "Grey: the plain lens, without translators.",
            options={"greys": ("plain lens",)},
        )
        return {"Held-out loss": drawing}


def fit_tuned_lens(
    model: Any,
    prompts: Any,
    *,
    file: str | Path | None = None,
    steps: int = 250,
    rate: float = 1e-3,
    held_out: float = 0.2,
    resume: bool = False,
    overwrite: bool = False,
    seed: int = 0,
    max_tokens: int = 1024,
    progress: bool = True,
) -> TunedLens:
    """Fits an affine map per state with the loss KL(final ‖ lens), and scores it held out.

    One step takes the next batch of prompts, in an order that the seed decides, and up to 256 of
    its tokens. The maps begin as the identity, so that the loss begins at that of the plain lens.
    Adam; the rate falls to a tenth. Source: Belrose et al. 2303.08112.

    Args:
        model: a bridge, or anything `load_model` takes.
        prompts: as for `run`; the more the better, some hundreds at least.
        file: where the maps are written (`.safetensors`), for `logit_lens` (`readout`).
        steps: number of steps.
        rate: first rate of learning.
        held_out: share of the prompts that is not fitted on.
        resume: go on with a fit that was broken off; needs `file`.
        overwrite: replace the file.
        seed: of the order and of the held-out prompts.
        progress: show a bar.

    Every tenth step is kept beside the file, and a fit that goes on gives the bits of an unbroken
    one. Raises `BadInput` for too few prompts or settings that are not allowed, `Unsupported` for a
    model without a readout, `InterpError` if the loss is no number.
    """
    _check(steps, rate, held_out, file, resume)
    if file is not None and not resume:
        refuse_existing(Path(file), overwrite=overwrite, folder=False)
    model = load_model(model)
    anatomy, stack = one_stack(model, "fit_tuned_lens")
    if anatomy.readout is None:
        raise Unsupported(f"{anatomy.model} has no verified readout to translate for")
    ready = prepared(model, anatomy, prompts)
    fit_rows, test_rows = _split(len(ready), held_out, seed)
    plan = partial(batches, model, anatomy, ready, max_tokens)
    source = _Source(model, anatomy.readout, stack.boundaries)
    fit = _Fit(source, plan(fit_rows), steps, rate, seed)
    kept = None if file is None else _Kept(Path(file), fit.told(ready.fingerprint()))
    if kept is not None and resume:
        kept.restore(fit)
    losses = fit.run(kept, progress)
    facts: dict[str, Any] = {
        "model": anatomy.model,
        "basis": anatomy.basis,
        "source": "interp fit tuned-lens",
    }
    facts |= {"steps": steps, "rate": rate, "seed": seed, "prompts": len(fit_rows)}
    translators = fit.translators(facts)
    frame = _scores(source, translators, plan(test_rows))
    path = None if file is None else translators.save(file)
    if kept is not None:
        kept.end()
    return TunedLens(frame, losses, translators, path, _notes(len(fit_rows), path))


def _notes(n: int, path: Path | None) -> tuple[str, ...]:
    few = f"Only {n} prompts were fitted on: the maps may fit their words." if n < 200 else ""
    where = "The maps were not written: name a file (file=, --file)."
    where = where if path is None else f"The maps are in {path}, for logit_lens (readout)."
    return (*([few] if few else []), where)


def _check(steps: int, rate: float, held_out: float, file: str | Path | None, resume: bool) -> None:
    if steps < 1 or not rate > 0:
        raise BadInput(f"steps={steps}, rate={rate}: allowed are 1 or more, and above 0")
    if not 0 < held_out < 1:
        raise BadInput(f"held_out={held_out}: allowed is a share between 0 and 1, such as 0.2")
    if resume and file is None:
        raise BadInput("resume goes on with a fit beside its file: name it (file=, --file)")
    if file is not None and Path(file).suffix != ".safetensors":
        raise BadInput(f"{str(file)!r}: the file of a fit ends in .safetensors")


def _split(n: int, held_out: float, seed: int) -> tuple[list[int], list[int]]:
    """Prompts to fit on, and those held out; at least two each."""
    order = np.random.default_rng(seed).permutation(n)
    cut = max(2, round(n * held_out))
    if n - cut < 2:
        raise BadInput(f"{n} prompts are too few to fit on some and hold out two; give more")
    return sorted(order[cut:].tolist()), sorted(order[:cut].tolist())


# ---- passes ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Source:
    """States and final log-probabilities of the ordinary tokens of a batch."""

    model: Any
    readout: Readout
    boundaries: tuple[str, ...]

    def of(self, batch: Tokens, keep: Tensor) -> tuple[list[Tensor], Tensor]:
        """States `[n, d_model]` 0 … L − 1, and log P `[n, vocab]` of the tokens of a mask."""
        logits, states = run_watched(self.model, batch, self.boundaries[:-1], keep)
        return states, at_least_float32(logits[keep.to(logits.device)]).log_softmax(-1)

    def loss(self, x: Tensor, final: Tensor) -> Tensor:
        """KL(final ‖ lens of x) per token `[n]`."""
        lens = self.readout.logits(x).log_softmax(-1)
        return (final.exp() * (final - lens)).nan_to_num().sum(-1)


class _Fit:
    """The maps, their optimiser, and the steps that were made."""

    def __init__(
        self, source: _Source, passes: list[Tokens], steps: int, rate: float, seed: int
    ) -> None:
        self.source, self.passes, self.steps, self.rate, self.seed = (
            source, passes, steps, rate, seed,
        )  # fmt: skip
        n, d = len(source.boundaries) - 1, int(source.model.cfg.d_model)
        device = source.readout.weight.device
        self.weight = torch.zeros(n, d, d, device=device, requires_grad=True)
        self.bias = torch.zeros(n, d, device=device, requires_grad=True)
        self.adam = torch.optim.Adam([self.weight, self.bias], lr=rate)
        self.done = 0
        self.losses: list[float] = []

    def told(self, prompts: str) -> dict[str, str]:
        """What a fit that goes on must share with the one that was broken off."""
        facts = {"steps": self.steps, "rate": self.rate, "seed": self.seed, "prompts": prompts}
        norms = sampled_norms(self.source.readout.weight).tolist()
        return {name: str(value) for name, value in (facts | {"unembedding": norms}).items()}

    def run(self, kept: _Kept | None, progress: bool) -> pd.DataFrame:
        """All steps that are left; the table of losses."""
        for step in track(range(self.done, self.steps), "fitting", enabled=progress):
            self._step(step)
            self.done = step + 1
            if kept is not None and self.done % 10 == 0 and self.done < self.steps:
                kept.keep(self)
        return pd.DataFrame({"step": range(len(self.losses)), "kl": self.losses})

    def _step(self, step: int) -> None:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        round_of, place = divmod(step, len(self.passes))
        order = np.random.default_rng((self.seed, round_of)).permutation(len(self.passes))
        batch = self.passes[int(order[place])]
        states, final = self.source.of(batch, _part(batch, generator))
        self.adam.zero_grad()
        total = 0.0
        for i, x in enumerate(states):  # one after the other: the logits of one state are enough
            moved = x + torch.nn.functional.linear(x, self.weight[i], self.bias[i])
            loss = self.source.loss(moved, final).mean()
            torch.autograd.backward(loss)
            total += float(loss.detach())
        mean = total / len(states)
        if not np.isfinite(mean):
            raise InterpError(
                f"the loss is {mean} at step {step}; try a smaller rate (now {self.rate:g})"
            )
        torch.nn.utils.clip_grad_norm_([self.weight, self.bias], 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.rate * (1 - (1 - FINAL_RATE) * step / max(1, self.steps - 1))
        self.adam.step()
        self.losses.append(mean)

    def translators(self, facts: Mapping[str, Any]) -> Translators:
        """The maps as they are now."""
        weight, bias = (p.detach().cpu().clone() for p in (self.weight, self.bias))
        return Translators(weight, bias, sampled_norms(self.source.readout.weight), facts)


def _part(batch: Tokens, generator: torch.Generator) -> Tensor:
    """Up to `DRAWN` ordinary tokens of a batch, bool `[batch, pos]`."""
    keep = batch.mask & ~batch.special
    places = keep.nonzero()
    if len(places) > DRAWN:
        chosen = places[torch.randperm(len(places), generator=generator, device="cpu")[:DRAWN]]
        keep = torch.zeros_like(keep)
        keep[chosen[:, 0], chosen[:, 1]] = True
    return keep


class _Kept:
    """The file beside the maps from which a broken fit goes on."""

    def __init__(self, file: Path, told: Mapping[str, str]) -> None:
        self.path, self.told = file.with_suffix(".fit.safetensors"), dict(told)

    def keep(self, fit: _Fit) -> None:
        """Writes maps, optimiser and losses, whole or not at all."""
        from safetensors.torch import save_file

        tensors = {"weight": fit.weight.detach(), "bias": fit.bias.detach()}
        for name, parameter in (("weight", fit.weight), ("bias", fit.bias)):
            for key in ("exp_avg", "exp_avg_sq", "step"):
                tensors[f"{name}.{key}"] = fit.adam.state[parameter][key]
        tensors["losses"] = torch.tensor(fit.losses, dtype=torch.float64)
        with atomic(self.path) as whole:
            save_file({k: v.contiguous().cpu() for k, v in tensors.items()}, whole, self.told)

    def restore(self, fit: _Fit) -> None:
        """Puts a fit where it was broken off; from the start if nothing was kept."""
        from safetensors import safe_open

        if not self.path.is_file():
            return
        with safe_open(self.path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        other = [name for name, value in self.told.items() if told.get(name) != value]
        if other:
            raise BadInput(
                f"{str(self.path)!r} is of another fit ({', '.join(other)} differ): use the same "
                "settings, or delete it"
            )
        with torch.no_grad():
            for name, parameter in (("weight", fit.weight), ("bias", fit.bias)):
                parameter.copy_(tensors[name])
                fit.adam.state[parameter] = {
                    key: tensors[f"{name}.{key}"].to(parameter.device if key != "step" else "cpu")
                    for key in ("exp_avg", "exp_avg_sq", "step")
                }
        fit.losses = tensors["losses"].tolist()
        fit.done = len(fit.losses)

    def end(self) -> None:
        """Removes what a finished fit does not need."""
        self.path.unlink(missing_ok=True)


# ---- scores ------------------------------------------------------------------------------------


def _scores(source: _Source, translators: Translators, passes: list[Tokens]) -> pd.DataFrame:
    """Held-out KL per state, with and without translators; the prompt is the unit."""
    n = translators.n_layers
    found: dict[str, list[list[float]]] = {"tuned_kl": [], "plain_kl": []}
    with torch.no_grad():
        for batch in passes:
            keep = batch.mask & ~batch.special
            states, final = source.of(batch, keep)
            row = keep.nonzero()[:, 0].numpy()
            for name, apply in (("tuned_kl", translators.one), ("plain_kl", lambda _, x: x)):
                losses = [
                    source.loss(apply(i, x), final).cpu().numpy() for i, x in enumerate(states)
                ]
                for prompt in np.unique(row):
                    found[name].append([float(loss[row == prompt].mean()) for loss in losses])
    table = {name: np.array(rows) for name, rows in found.items()}
    return pd.DataFrame([_row(i, table) for i in range(n)])


def _row(state: int, table: Mapping[str, Floats]) -> dict[str, float]:
    out: dict[str, float] = {"layer": state}
    for name, values in table.items():
        low, high = student_interval(values[:, state], 0.95, (0, np.inf))
        out |= {name: float(values[:, state].mean()), f"{name}_low": low, f"{name}_high": high}
    gain = table["plain_kl"][:, state] - table["tuned_kl"][:, state]
    low, high = student_interval(gain, 0.95)
    out |= {"gain": float(gain.mean()), "gain_low": low, "gain_high": high}
    return out | {"prompts": len(gain)}
