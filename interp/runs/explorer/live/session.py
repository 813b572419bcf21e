"""A model and the prompts that were run on it so far, measured together.

The states of the analyses merge, so each new prompt costs one pass, and yet all prompts share one
basis of ways and one band of means. Knows nothing of servers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from interp._arrays import Bools, Ints
from interp.contract.analysis import Analysis
from interp.contract.registry import resolve
from interp.contract.settings import configured
from interp.errors import BadInput, Unsupported, nearest
from interp.models.for_model import prompts_of
from interp.models.probe import inspect, refuse_training
from interp.models.writing import Sampling, refuse_full, refuse_silent, stop_ids, until, write
from interp.prompts.prompts import Prompts
from interp.runs.collect import Collector, observe_weights, token_index
from interp.runs.explorer.page import explorer_payload
from interp.runs.feed import Feeder
from interp.runs.provenance import provenance_of
from interp.runs.results import Results

MOST_PROMPTS = 64
MOST_NEW = 4096
LONGEST = 20_000  # letters of a prompt
KEPT = {
    "logit_lens.examples": MOST_PROMPTS,
    "attention.maps": MOST_PROMPTS,
    "trajectory.tokens": 8192,
}
FIRST = "her"  # the built-in set whose first prompt is run where none is given
Tell = Callable[[Mapping[str, Any]], None]


class Stopped(Exception):
    """The reader left, or the server ends."""


@dataclass(frozen=True)
class Asked:
    """What the page asks for: a prompt, and how far the model should continue it.

    Attributes:
        prompt: the text.
        new_tokens: number of tokens to write; 0 measures the prompt alone.
        sample: draw each token; else the likeliest is taken.
        temperature, top_k, top_p, seed: of the draws, as for `interp.generate`.
    """

    prompt: str
    new_tokens: int = 0
    sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    @classmethod
    def of(cls, document: Any) -> Asked:
        """From JSON values. Raises `BadInput` for anything that is not asked like this."""
        known = {f.name: f.type for f in fields(cls)}
        if not isinstance(document, dict) or not isinstance(document.get("prompt"), str):
            raise BadInput('expected an object with a text under "prompt"')
        for name, value in document.items():
            if name not in known:
                raise BadInput(f"unknown field {name!r}{nearest(name, known)}")
            if not _fits(value, str(known[name])):
                raise BadInput(f"{name} is {value!r}; expected {known[name]}")
        asked = cls(**document)
        asked.check()
        return asked

    def check(self) -> None:
        """Raises `BadInput` for values that are out of range."""
        if not self.prompt.strip():
            raise BadInput("the prompt is empty")
        if len(self.prompt) > LONGEST:
            raise BadInput(f"the prompt has {len(self.prompt):,} letters; at most {LONGEST:,}")
        if not 0 <= self.new_tokens <= MOST_NEW:
            raise BadInput(f"new_tokens is {self.new_tokens}; allowed is 0 to {MOST_NEW}")
        if self.new_tokens:
            self.sampling().check()

    def sampling(self) -> Sampling:
        """The choice of the next token."""
        drawn: dict[str, Any] = {"temperature": self.temperature, "top_k": self.top_k}
        drawn |= {"top_p": self.top_p}
        return Sampling(
            self.new_tokens, self.sample, seed=self.seed, **(drawn if self.sample else {})
        )


def _fits(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a type, which is written as in a signature."""
    if value is None:
        return "None" in kind
    if isinstance(value, bool):
        return kind == "bool"
    if isinstance(value, float):
        return "float" in kind
    if isinstance(value, int):
        return "int" in kind or "float" in kind
    return isinstance(value, str) and kind == "str"


class Session:
    """One model, its analyses, and all prompts so far.

    Attributes:
        payload: of the page with all prompts.
        notes: analyses that the model does not have, with the reason.
    """

    def __init__(
        self,
        bridge: Any,
        analyses: Sequence[str | Analysis | type[Analysis]],
        *,
        prompt: str | None = None,
        prepend_bos: bool | None = None,
    ) -> None:
        refuse_training(bridge)
        self.bridge, self.anatomy, self.prepend_bos = bridge, inspect(bridge), prepend_bos
        if getattr(bridge, "tokenizer", None) is None:
            raise BadInput(
                f"{self.anatomy.model} has no tokenizer, so it reads no typed prompts; load it "
                "with one"
            )
        self.analyses, self.notes = self._measurable(resolve(analyses))
        self._wiring = self.anatomy.wire(list(self.analyses.values()))
        self._collector = Collector(self.analyses)
        observe_weights(bridge, self.analyses, self._collector)
        self._rows: list[Ints] = []
        self._written: list[Bools] = []
        self.payload: dict[str, Any] = {}
        self._first(prompt)

    def _measurable(
        self, chosen: Mapping[str, Analysis]
    ) -> tuple[dict[str, Analysis], tuple[str, ...]]:
        """The analyses that this model has, keeping what the page shows of every prompt."""
        own = {name: value for name, value in KEPT.items() if name.split(".")[0] in chosen}
        out, notes = {}, []
        for name, analysis in configured(chosen, own).items():
            try:
                self.anatomy.wire([analysis])
            except Unsupported as error:
                notes.append(f"not measured: {error}")
            else:
                out[name] = analysis
        if not out:
            raise Unsupported("; ".join(notes))
        return out, tuple(notes)

    def _first(self, prompt: str | None) -> None:
        if prompt is not None:
            self.run(Asked(prompt))
            return
        tokens = prompts_of(self.bridge, self.anatomy, FIRST, prepend_bos=self.prepend_bos).tokens
        self._take(tokens[0], np.zeros(len(tokens[0]), dtype=bool))

    def run(self, asked: Asked, tell: Tell = lambda _: None, stop: Any = None) -> dict[str, Any]:
        """Runs a prompt, continued if so asked, and returns the payload with it among the others.

        Args:
            asked: the prompt and its options.
            tell: called with what is new: `{"type": "text", "text": …, "tokens": n}`.
            stop: an event; when it is set, writing ends with `Stopped`.

        Raises `BadInput`, `Unsupported` or `InterpError` with nothing added.
        """
        if len(self._rows) >= MOST_PROMPTS:
            raise BadInput(f"{MOST_PROMPTS} prompts are on the page; start again for more")
        ready = prompts_of(self.bridge, self.anatomy, [asked.prompt], prepend_bos=self.prepend_bos)
        old = ready.tokens[0]
        new = self._continuation(ready, asked, tell, stop or threading.Event())
        return self._take(np.append(old, new), np.arange(len(old) + len(new)) >= len(old))

    def _continuation(self, ready: Prompts, asked: Asked, tell: Tell, stop: Any) -> Ints:
        if not asked.new_tokens:
            return np.empty(0, np.int64)
        refuse_silent(self.bridge, self.anatomy)
        refuse_full(ready, asked.new_tokens, self.anatomy.n_ctx)

        def watch(_: Sequence[int], written: Ints, ended: Bools) -> None:
            if stop.is_set():
                raise Stopped
            new = until(written[0], stops) if ended.all() else written[0]
            if len(new):
                tell({"type": "text", "text": self._text(new.tolist()), "tokens": len(new)})

        stops, how = stop_ids(self.bridge), asked.sampling()
        (new,) = write(self.bridge, self.anatomy, ready, how, stops, keys=[(0, 0)], watch=watch)
        return new

    def _text(self, ids: Sequence[int]) -> str:
        return str(self.bridge.tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    def _take(self, row: Ints, written: Bools) -> dict[str, Any]:
        """Measures one more prompt and makes the payload anew; nothing is added after an error."""
        rows, marks = [*self._rows, row], [*self._written, written]
        ready = prompts_of(self.bridge, self.anatomy, rows)
        if any(mark.any() for mark in marks):
            ready = ready.with_labels("generated", marks)
        (batch,) = ready.batches(len(row), only=[len(rows) - 1])
        with Feeder(self.bridge, self.anatomy, self._wiring) as feeder:
            self._collector.take(feeder.feed(batch))
        self._rows, self._written = rows, marks
        self.payload = explorer_payload(self._results(ready))
        return self.payload

    def _results(self, ready: Prompts) -> Results:
        origin = provenance_of(self.bridge, self.anatomy, self.analyses, ready)
        origin["prompts"]["source"] = "typed on the page"
        tokens = token_index(ready, self._collector, self.bridge)
        return self._collector.results(tokens, origin, self.anatomy, self.bridge)
