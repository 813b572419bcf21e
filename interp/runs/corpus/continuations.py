"""Continuations of documents: the model writes on, and the whole texts are measured.

Knows the model and a window of documents; nothing of analyses, shards or files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from interp._arrays import Ints
from interp.contract.options import check_numbers, check_options
from interp.errors import BadInput, InterpError
from interp.models.anatomy import Anatomy
from interp.models.writing import (
    Sampling,
    no_room,
    refuse_silent,
    stop_ids,
    uncached,
    until,
    write,
)
from interp.prompts.labels import labelled
from interp.prompts.prompts import Prompts
from interp.prompts.tokens import special_ids, token_id
from interp.runs.corpus.documents import (
    Chunks,
    Failure,
    Reading,
    cut,
    reason_of,
    whole_documents,
)
from interp.runs.corpus.sources import Document
from interp.runs.generate import check_samples, continued, repeated, taken, text_rows

TEXTS = "texts"
TYPES = {"sample": "int32", "generated": "bool", "generation_step": "int32"}
"""Labels of every token of a text that a model wrote, with their types in Parquet."""
SHOWN = 64
"""Documents, the first ones, whose texts a summary keeps."""
COUNTS = ("texts", "documents", "new_tokens", "stopped", "empty", "longer", "after")
"""What is counted of the texts: also their documents, and how many a stop token ended, are nothing
but one, and go on after a token which ends a text, with the tokens after it."""
DEFAULTS: dict[str, Any] = {
    "samples": 1, "do_sample": False, "temperature": 1.0, "top_k": None, "top_p": None,
    "stop": None, "seed": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Generation:
    """The way in which documents are continued.

    Attributes:
        how: the choice of the next token.
        samples: texts per document.
        stop: tokens that end a text; None: the model's own.
    """

    how: Sampling
    samples: int = 1
    stop: tuple[str | int, ...] | None = None

    @property
    def new_bytes(self) -> int:
        """About the bytes of text that the model writes after a document."""
        return 4 * self.how.max_new_tokens

    @property
    def stride(self) -> int:
        """A power of ten that is at least the number of texts per document."""
        return 1 if self.samples == 1 else int(10 ** len(str(self.samples - 1)))

    def settings(self) -> dict[str, Any]:
        """All settings as JSON values."""
        stop = None if self.stop is None else list(self.stop)
        return self.how.settings() | {"samples": self.samples, "stop": stop}


def generation_of(new: int | None, options: Mapping[str, Any]) -> Generation | None:
    """The generation that is asked for, None without a number of new tokens.

    Args:
        new: most tokens that the model writes after a document.
        options: those of `DEFAULTS`, all of them.

    Raises `BadInput` for values that are not allowed, and for options without `new`.
    """
    given = [name for name, value in options.items() if value != DEFAULTS[name]]
    if new is None and given:
        raise BadInput(
            f"{', '.join(given)}: only with generate=, the number of tokens that the model writes "
            "after each document"
        )
    if new is None:
        return None
    numbers = {name: options[name] for name in ("samples", "temperature", "seed")}
    check_numbers(max_new_tokens=new, **numbers)
    check_options(**options)
    drawing = {name: options[name] for name in ("temperature", "top_k", "top_p", "seed")}
    how = Sampling(new, options["do_sample"], **drawing)
    how.check()
    check_samples(options["samples"], do_sample=how.do_sample)
    stop = options["stop"]
    return Generation(how, options["samples"], None if stop is None else tuple(stop))


@dataclass
class Window:
    """What was read of a window of documents: its chunks, what failed, and the written texts."""

    chunks: Chunks | None
    failures: list[Failure]
    texts: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Writer:
    """A model that continues documents.

    The draws of a text depend on the seed, the number of its document and its own, so that shards,
    workers and interruptions change nothing.

    Raises `Unsupported` for a model that continues no text, `BadInput` for a stop token that its
    vocabulary lacks.
    """

    def __init__(self, bridge: Any, anatomy: Anatomy, asked: Generation, max_tokens: int) -> None:
        refuse_silent(bridge, anatomy)
        self.bridge, self.anatomy, self.asked = bridge, anatomy, asked
        self.max_tokens = max_tokens
        self.ends = stop_ids(bridge)
        given = asked.stop
        self.stops = self.ends if given is None else [self._id(token) for token in given]

    def _id(self, token: str | int) -> int:
        return token_id(self.bridge, token, "stop token")

    def describe(self) -> dict[str, Any]:
        """Facts of the model that the texts depend on, as JSON values."""
        why = uncached(self.anatomy)
        found = {"stops": self.stops, "ends": self.ends, "cache": why is None}
        return {"writing": found, "uncached": why}

    def read(self, documents: Sequence[Document], reading: Reading) -> Window:
        """The documents with their continuations; those that leave no room are failures."""
        # Uncut and without the labels of labellers: those are of the finished texts.
        plain = replace(reading, limit=None, labellers=())
        prompts, kept, failures = whole_documents(documents, self.bridge.tokenizer, plain)
        if prompts is None:
            return Window(None, failures)
        full = [no_room(len(row), self.asked.how.max_new_tokens, reading.limit)
                for row in prompts.tokens]  # fmt: skip
        failures += [
            Failure(d.number, -1, d.where, f"the document {why}")
            for d, why in zip(kept, full, strict=True)
            if why is not None
        ]
        fit = [i for i, why in enumerate(full) if why is None]
        if not fit:
            return Window(None, failures)
        places = [(kept[i], sample) for i in fit for sample in range(self.asked.samples)]
        return self._measured(taken(prompts, fit), places, reading, failures)

    def _measured(
        self,
        prompts: Prompts,
        places: Sequence[tuple[Document, int]],
        reading: Reading,
        failures: list[Failure],
    ) -> Window:
        """The chunks of all texts that could be written."""
        asked = repeated(prompts, self.asked.samples)
        found = self._written(asked, [(d.number, sample) for d, sample in places])
        lost = {i: error for i, error in enumerate(found) if isinstance(error, Exception)}
        if len(lost) == len(found) > 1:
            reason = reason_of(lost[0])
            raise InterpError(f"not one of {len(lost)} texts could be written; the first: {reason}")
        failures += [_failure(places[i], error) for i, error in lost.items()]
        done = [i for i in range(len(found)) if i not in lost]
        if not done:
            return Window(None, failures)
        new = [row for row in found if not isinstance(row, Exception)]
        asked, places = taken(asked, done), [places[i] for i in done]
        texts = continued(self.bridge, self.anatomy, asked, new, self.asked.samples)
        texts = texts.with_labels("given", [document.number for document, _ in places])
        texts = texts.with_labels("sample", [sample for _, sample in places])
        texts, kept = _labelled(texts, places, reading.labellers, failures)
        rows = text_rows(asked, new, self.stops, self.bridge.tokenizer)
        told = [{"document": d.number, "sample": s, **row}
                for (d, s), row in zip(places, rows, strict=True)]  # fmt: skip
        chunks = self._chunks(texts, [places[i] for i in kept], reading) if kept else None
        return Window(chunks, failures, told, self._counts(new, told))

    def _chunks(
        self, texts: Prompts, places: Sequence[tuple[Document, int]], reading: Reading
    ) -> Chunks:
        controls = special_ids(self.bridge.tokenizer)
        documents, samples = [d for d, _ in places], [sample for _, sample in places]
        return cut(texts, documents, reading, controls, samples)

    def _written(
        self, asked: Prompts, keys: Sequence[tuple[int, int]]
    ) -> Sequence[Ints | Exception]:
        """The new tokens of each prompt, or the error; after one each prompt is tried alone."""
        how = self.asked.how
        try:
            return write(
                self.bridge,
                self.anatomy,
                asked,
                how,
                self.stops,
                keys=keys,
                max_tokens=self.max_tokens,
            )
        except (OSError, MemoryError):
            raise  # of the machine, not of the document
        except Exception as error:  # noqa: BLE001  one document must not cost the run
            if len(asked) == 1:
                return [error]
        alone = (self._written(taken(asked, [i]), [key]) for i, key in enumerate(keys))
        return [one for rows in alone for one in rows]

    def _counts(self, new: Sequence[Ints], rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
        after = [len(row) - len(until(row, self.ends)) for row in new]
        stopped = [bool(row["stopped"]) for row in rows]
        empty = [len(row) == 1 and end for row, end in zip(new, stopped, strict=True)]
        documents = len({row["document"] for row in rows})
        numbers = (len(new), documents, sum(map(len, new)), sum(stopped), sum(empty))
        return dict(zip(COUNTS, (*numbers, sum(map(bool, after)), sum(after)), strict=True))


def _failure(place: tuple[Document, int], error: Exception) -> Failure:
    document, sample = place
    return Failure(document.number, sample, document.where, reason_of(error))


def _labelled(
    texts: Prompts,
    places: Sequence[tuple[Document, int]],
    labellers: Sequence[Callable[[Prompts], Prompts]],
    failures: list[Failure],
) -> tuple[Prompts, list[int]]:
    """The texts with the labels of labellers, and their numbers; without those that fail alone."""
    whole = _tried(texts, labellers)
    if isinstance(whole, Prompts):
        return whole, list(range(len(texts)))
    alone = [_tried(taken(texts, [i]), labellers) for i in range(len(texts))]
    failures += [_failure(p, e) for p, e in zip(places, alone, strict=True)
                 if isinstance(e, Exception)]  # fmt: skip
    fine = [i for i, one in enumerate(alone) if isinstance(one, Prompts)]
    rest = _tried(taken(texts, fine), labellers) if fine else texts
    if isinstance(rest, Prompts):
        return rest, fine
    failures += [_failure(places[i], rest) for i in fine]
    return texts, []


def _tried(
    texts: Prompts, labellers: Sequence[Callable[[Prompts], Prompts]]
) -> Prompts | Exception:
    try:
        for labeller in labellers:
            texts = labelled(texts, labeller)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001  it is recorded with the document
        return error
    return texts


def summed(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Counts of texts of several windows or shards together."""
    return {name: sum(one.get(name, 0) for one in counts) for name in COUNTS}
