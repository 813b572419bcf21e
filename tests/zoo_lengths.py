"""For every zoo model and awkward lengths of prompts: the same numbers, or refused by name.

One text is cut to several lengths. What a prompt gives alone is compared with plain Hugging Face,
with the same prompt in a ragged batch and, in a causal model, with the first rows of a longer one.
`python tests/zoo_lengths.py` prints what is wrong, by model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from zoo import ZOO, Entry, boot, random_tokens, reference
from zoo_states import ATOL, Stream, difference

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp import Analysis
from interp.errors import BadInput, Unsupported

LENGTHS = (1, 2, 5, 13, 17, 33)
"""One token; fewer than a convolution is wide; no multiple of any window or chunk of the zoo."""
BEYOND = 72
"""More tokens than the tables of positions in the zoo have rows."""
ANALYSES = (Stream(), Rotation(), PathLength(), LogitLens(examples=0), Attention())
"""The states, and what `interp.run` does by default."""
KEYS = ("stack", "layer", "head", "position")
TOLERANCE = 2e-3
"""Of a column's largest value: angles near zero magnify the noise of float32."""
SMALLEST = 1e-3
"""A column below is noise itself, such as the error of a sum that closes."""


@dataclass(frozen=True)
class Seen:
    """Tables and states of one run; `refused` is the text of a refusal instead."""

    frames: Mapping[str, pd.DataFrame]
    states: Mapping[str, list[np.ndarray]]
    refused: str = ""

    def of(self, prompt: int) -> Iterator[tuple[str, pd.DataFrame]]:
        """The tables' rows of one prompt, numbers only, by everything that names a row."""
        for name, frame in self.frames.items():
            rows = frame[frame["prompt"] == prompt].drop(columns="prompt")
            keys = [key for key in KEYS if key in rows]
            yield name, rows.set_index(keys).select_dtypes("number").sort_index()


def observe(model: Any, prompts: Sequence[Sequence[int]], analyses: Sequence[Analysis]) -> Seen:
    """What a run gives, or why it is refused. Any other error is for the caller to tell."""
    try:
        results = interp.run(model, [list(p) for p in prompts], analyses, progress=False)
    except (Unsupported, BadInput) as refused:
        return Seen({}, {}, str(refused))
    kept = results["stream"].examples("x")
    states = {stack: [items[i] for i in sorted(items)] for (stack, _), items in kept.items()}
    return Seen({n: r.frame for n, r in results.items() if n != "stream"}, states)


def unlike(got: Seen, prompt: int, want: Seen, of: int, *, first: int | None = None) -> str:
    """What differs between two prompts, or between the `first` rows of both; "" if nothing."""
    for stack, x, y in _states(got, prompt, want, of, cut=first is not None):
        if x.shape != y.shape or not np.abs(x - y).max() <= ATOL * np.abs(y).max():
            return f"states of {stack or 'the blocks'} differ"
    for (name, a), (_, b) in zip(got.of(prompt), want.of(of), strict=True):
        if first is not None:
            a, b = (x[x.index.get_level_values("position") < first] for x in (a, b))
        if not a.index.equals(b.index):
            return f"{name} has {len(a)} rows, not {len(b)}"
        for column in a:
            x, y = a[column].to_numpy(float), b[column].to_numpy(float)
            scale = np.nanmax(np.abs(y), initial=SMALLEST)
            if not np.allclose(x, y, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
                return f"{name}.{column} differs by {np.nanmax(np.abs(x - y)):.2g} of {scale:.2g}"
    return ""


def _states(
    got: Seen, prompt: int, want: Seen, of: int, *, cut: bool
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """States `[state, pos, d]` by stack, both cut to the shorter prompt where that is asked for."""
    for stack, prompts in got.states.items():
        x, y = prompts[prompt], want.states[stack][of]
        shared = min(x.shape[1], y.shape[1]) if cut else None
        yield stack, x[:, :shared], y[:, :shared]


@dataclass(frozen=True)
class Trial:
    """One model with the texts put to it."""

    entry: Entry
    model: Any
    anatomy: Any
    analyses: tuple[Analysis, ...]

    @classmethod
    def of(cls, entry: Entry) -> Trial | None:
        """None where every analysis is refused."""
        model = boot(entry)
        try:
            anatomy = interp.inspect(model)
        except Unsupported:
            return None
        analyses = tuple(a for a in ANALYSES if anatomy.refusal(a) is None)
        return cls(entry, model, anatomy, analyses) if analyses else None

    def alone(self, ids: Sequence[int]) -> tuple[Seen, str]:
        """The prompt by itself, and how it differs from plain Hugging Face."""
        seen = observe(self.model, [ids], self.analyses)
        if seen.refused:
            return seen, ""
        expected = reference(self.entry, torch.tensor([ids]))
        return seen, difference(seen.states, expected) or _lens(seen, expected)

    def ragged(self, texts: Sequence[Sequence[int]], alone: Sequence[Seen]) -> str:
        """How prompts in one batch differ from the same ones alone."""
        together = observe(self.model, texts, self.analyses)
        if together.refused:
            return f"refused together, not alone: {together.refused}"
        return next(filter(None, (unlike(together, i, a, 0) for i, a in enumerate(alone))), "")

    def prefix(self, alone: Mapping[int, Seen]) -> str:
        """How prompts differ from the longest one's first rows, but for the last token's answer."""
        whole = alone[max(alone)]
        found = (unlike(whole, 0, a, 0, first=n - 1) for n, a in alone.items() if n > 1)
        causal = self.anatomy.causal and len(self.anatomy.stacks) == 1
        return next(filter(None, found), "") if causal else ""


def _lens(seen: Seen, expected: Mapping[str, Any]) -> str:
    """How the lens's last row differs from the log-probabilities of plain Hugging Face."""
    frame = seen.frames.get("logit_lens")
    if frame is None:
        return ""
    last = frame[frame["layer"] == frame["layer"].max()].sort_values("position")
    log_p = expected["logits"][0].float().log_softmax(-1)
    following = torch.tensor(last["token_id"].tolist())[1:]
    want = log_p[:-1].gather(-1, following[:, None])[:, 0].numpy()
    got = last["log_prob"].to_numpy()[:-1]
    return (
        "" if np.allclose(got, want, atol=1e-3) else f"lens off by {np.abs(got - want).max():.2g}"
    )


def judge_lengths(entry: Entry, lengths: Sequence[int] = LENGTHS) -> dict[str, str]:
    """What is wrong, by what was tried.

    Beside the given lengths the longest one that the model takes is tried, and a longer one, which
    alone may be refused. Nothing is tried where everything is refused, whatever the length.
    """
    trial = Trial.of(entry)
    if trial is None:
        return {}
    limit = trial.anatomy.n_ctx or BEYOND
    tried = sorted({*lengths, min(limit, BEYOND), BEYOND})
    text, other = (random_tokens(1, BEYOND, seed=seed)[0].tolist() for seed in (0, 1))
    wrong: dict[str, str] = {}
    alone: dict[int, Seen] = {}
    for n in tried:
        with _told(wrong, f"{n} tokens alone"):
            alone[n], wrong[f"{n} tokens alone"] = trial.alone(text[:n])
    refused = {n: f"refused: {seen.refused}" for n, seen in alone.items() if seen.refused}
    wrong |= {f"{n} tokens alone": why for n, why in refused.items() if n <= limit}
    fine = [n for n in alone if n not in refused]
    with _told(wrong, "the same text longer"):
        wrong["the same text longer"] = trial.prefix({n: alone[n] for n in fine})
    with _told(wrong, "a ragged batch"):
        texts = [*(text[:n] for n in fine), other[: max(fine)]]
        singles = [*(alone[n] for n in fine), trial.alone(texts[-1])[0]]
        wrong["a ragged batch"] = trial.ragged(texts, singles)
    return {what: text for what, text in wrong.items() if text}


@contextmanager
def _told(wrong: dict[str, str], tried: str) -> Iterator[None]:
    """Writes down an error that is none of this library's refusals."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  what is looked for may be of any type
        wrong[tried] = f"{type(error).__name__}: {error}"


def main(names: Sequence[str]) -> int:
    torch.set_num_threads(1)
    bad = 0
    for name in names or ZOO:
        wrong = judge_lengths(ZOO[name])
        bad += bool(wrong)
        print(name, wrong or "ok", flush=True)  # noqa: T201
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
