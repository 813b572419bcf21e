"""Prompts: text or token ids, tokenised once, as a ragged immutable set that yields batches.

Knows tokens, special tokens, words and labels; knows nothing of models. `read_prompts` reads
whatever a user hands over, completely or not at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch

from interp._arrays import Bools, Ints
from interp.contract.columns import refuse_taken
from interp.contract.tokens import Tokens
from interp.errors import BadInput, nearest
from interp.prompts.batches import batches_of, check_batching, sorted_in_windows
from interp.prompts.label_values import (
    Objects,
    as_column,
    frozen,
    per_token,
    refuse_inexact,
    refuse_mixed,
    tagged,
    whole_text,
)
from interp.prompts.tokens import align, trimmed, words

AIMED = "at every position, not the one that comes next"  # in the note on targets that were given


def _joined(parts: Sequence[Any], dtype: Any) -> Any:
    """The parts one after the other; without any, nothing of that type."""
    return np.concatenate([np.empty(0, dtype), *parts])


@dataclass(frozen=True, eq=False)
class Prompts:
    """A set of prompts as token ids, one array per prompt, without padding.

    Attributes:
        tokens: int64 `[length_i]`, as fed to the model, special tokens included.
        special: bool `[length_i]`, true for BOS, EOS and the like, added or literal, and for what
            a chat template wrote.
        texts: the text of each prompt, None where only ids are known; of chat messages the
            contents at their places, with line breaks for what the template wrote.
        spans: int64 `[length_i, 2]`, character offsets in the text, (0, 0) at special tokens;
            None where the tokenizer gives none.
        strings: each token as text; bytes that are no whole character as `⟨E4 BD⟩`, and those that
            complete one as `⟨A0→你⟩`.
        labels: per label name one object array `[length_i]` for each prompt; None is unlabelled.
        targets: int64 `[length_i]`, explicit target ids, -1 for none; None: the next tokens.
        contrasts: int64 `[length_i]`, second answers that targets are compared with; None: none.
        source: what the prompts were read from.
        notes: what a reader of results should know, such as prompts without the target word.
        massive_first: the model that reads them has a massive first token: summaries leave the
            first token of each prompt out, whatever it is.
        speaker: of chat messages the name of the label with the role of each token; else None.
    """

    tokens: tuple[Ints, ...]
    special: tuple[Bools, ...]
    texts: tuple[str | None, ...]
    spans: tuple[Ints | None, ...]
    strings: tuple[tuple[str, ...], ...]
    labels: Mapping[str, tuple[Objects, ...]] = field(default_factory=dict)
    targets: tuple[Ints, ...] | None = None
    source: str = "unknown"
    notes: tuple[str, ...] = ()
    massive_first: bool = False
    contrasts: tuple[Ints, ...] | None = None
    speaker: str | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def left_out(self) -> tuple[Bools, ...]:
        """Tokens that summaries leave out, bool `[length_i]`: special, or first and massive."""
        return tuple(map(self._left_out, range(len(self))))

    @property
    def massive(self) -> int:
        """Number of tokens that are left out as massive first ones, not as special ones."""
        firsts = (row[:1] for row in self.special) if self.massive_first else ()
        return sum(int((~first).sum()) for first in firsts)

    def _left_out(self, i: int) -> Bools:
        row = self.special[i]
        return row | (np.arange(len(row)) == 0) if self.massive_first else row

    @property
    def lengths(self) -> Ints:
        """Number of tokens of each prompt, special ones included: int64 `[n]`."""
        return np.asarray([len(row) for row in self.tokens], dtype=np.int64)

    def index(self) -> pd.DataFrame:
        """One row per token: prompt, position, token, token_id, special, word, and the labels.

        A massive first token counts as `special` here and in batches, but has its word.
        `word` counts the words of the prompt from 0; it is -1 at special tokens, at tokens of
        spaces only and where no character spans are known.
        """
        lengths = self.lengths
        columns: dict[str, Any] = {
            "prompt": np.repeat(np.arange(len(self)), lengths),
            "position": _joined([np.arange(n) for n in lengths], np.int64),
            "token": [string for row in self.strings for string in row],
            "token_id": _joined(self.tokens, np.int64),
            "special": _joined(self.left_out, np.bool_),
            "word": _joined([self._words(i) for i in range(len(self))], np.int64),
        }
        for name, arrays in self.labels.items():
            columns[name] = as_column(np.concatenate(arrays).tolist())
        return pd.DataFrame(columns)

    def _words(self, i: int) -> Ints:
        text, spans = self.texts[i], self.spans[i]
        if text is None or spans is None:
            return np.full(len(self.tokens[i]), -1, dtype=np.int64)
        found = align(trimmed(spans, text), words(text))
        # By `special` and not `left_out`: a massive first token is a word all the same.
        found[self.special[i]] = -1
        return found

    def with_labels(self, name: str, values: Sequence[Any], *, note: str | None = None) -> Prompts:
        """The same prompts with one more label; a label of that name is replaced.

        Args:
            name: the column; not one of those that the library writes itself.
            values: one entry per prompt: a scalar for all its tokens, or one value per token (or
                per token that is not special). None and NaN mean unlabelled.
            note: added to `notes`.

        Raises:
            BadInput: wrong lengths, a reserved name, no scalars, text mixed with numbers.
        """
        refuse_taken([whole_text("name of a label", name)])
        values = [values] if isinstance(values, str) else list(values)
        if len(values) != len(self):
            raise BadInput(f"label {name!r}: expected {len(self)} prompts, got {len(values)}")
        arrays = tuple(
            per_token(f"label {name!r}", i, value, special, fill=None)
            for i, (value, special) in enumerate(zip(values, self.special, strict=True))
        )
        refuse_mixed(f"label {name!r}", arrays)
        refuse_inexact(f"label {name!r}", arrays)
        notes = (*self.notes, note) if note else self.notes
        return replace(self, labels={**self.labels, name: arrays}, notes=notes)

    def renamed(self, names: Mapping[str, str]) -> Prompts:
        """The same prompts with labels under new names: `{new: old}`.

        Raises:
            BadInput: no label `old`, a label `new` that is there already, or a reserved name.
        """
        back = new_names(names, self.labels, "label")
        refuse_taken(names)
        labels = {back.get(n, n): cells for n, cells in self.labels.items()}
        speaker = None if self.speaker is None else back.get(self.speaker, self.speaker)
        return replace(self, labels=labels, speaker=speaker)

    def label(self, labeller: Labeller) -> Prompts:
        """The same prompts with the labels that a labeller such as `target_word("her")` gives."""
        return labeller(self)

    def batches(
        self,
        max_tokens: int = 4096,
        pad_id: int = 0,
        padding_side: str = "right",
        *,
        max_batch: int | None = None,
        sort: bool = True,
        only: Sequence[int] | None = None,
        apart: Callable[[int], bool] | None = None,
    ) -> Iterator[Tokens]:
        """Rectangles of at most `max_tokens` cells, padding counted, each prompt exactly once.

        A prompt longer than the budget is a batch of its own.

        Args:
            max_tokens: budget of a batch: prompts times the longest of them.
            pad_id: the id at padding.
            padding_side: "right" or "left".
            max_batch: most prompts in a batch; no limit unless given.
            sort: longest first within windows of 1024 prompts, which leaves little padding;
                otherwise in the order given.
            only: the prompts to use, by number; `ids` keep the numbers of the whole set.
            apart: true for the lengths of prompts that share no batch with the others, as where a
                model encodes positions by the longest prompt of a pass.

        Raises:
            BadInput: a budget below 1, an unknown side, a number that is no prompt's.
        """
        check_batching(max_tokens, max_batch, padding_side)
        chosen = list(range(len(self))) if only is None else [int(i) for i in only]
        for i in chosen:
            if not 0 <= i < len(self):
                raise BadInput(f"only= names prompt {i}; there are {len(self)}, counted from 0")
        rows = sorted_in_windows(chosen, self.lengths) if sort else chosen
        kinds = [apart is not None and apart(int(n)) for n in self.lengths]
        plan = batches_of(rows, self.lengths, kinds, max_tokens, max_batch or len(self))
        return (self._batch(group, pad_id, padding_side) for group in plan)

    def _batch(self, rows: Sequence[int], pad_id: int, side: str) -> Tokens:
        lengths = [len(self.tokens[i]) for i in rows]
        shape = (len(rows), max(lengths))
        tokens, targets = np.full(shape, pad_id, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        mask, special = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        positions = np.zeros(shape, dtype=np.int64)
        for row, (i, length) in enumerate(zip(rows, lengths, strict=True)):
            at = slice(0, length) if side == "right" else slice(shape[1] - length, shape[1])
            tokens[row, at], special[row, at] = self.tokens[i], self._left_out(i)
            mask[row, at], positions[row, at] = True, np.arange(length)
            targets[row, at] = self.targets_of(i)
        ids = np.asarray(rows, dtype=np.int64)
        whole = Tokens.whole(
            *map(torch.from_numpy, (tokens, mask, special, ids, positions, targets))
        )
        if self.contrasts is None:
            return whole
        # One second answer per prompt, so that any of its tokens has it.
        return whole.answered(contrasts=[int(max(self.contrasts[i], default=-1)) for i in rows])

    def targets_of(self, i: int) -> Ints:
        """int64 `[length]`: the target of each token, the next one unless given; -1 for none."""
        if self.targets is not None:
            return self.targets[i]
        return np.append(self.tokens[i][1:], np.int64(-1))

    def aimed_at(
        self,
        targets: int | Sequence[int] | None,
        against: int | Sequence[int] | None = None,
        texts: Mapping[int, str] = MappingProxyType({}),
    ) -> Prompts:
        """The same prompts with answers at every position: one token id, or one per prompt.

        Args:
            targets: the answers; None leaves the targets as they are.
            against: second answers, which the first are compared with.
            texts: of tokens by their ids, for the notes.

        Raises `BadInput` for another number of answers than prompts.
        """
        out = self
        if targets is not None:
            rows, said = self._everywhere(targets, "targets", texts)
            note = f"the target is {said} {AIMED}"
            out = replace(out, targets=rows, notes=(*out.notes, note))
        if against is not None:
            rows, said = self._everywhere(against, "against", texts)
            note = f"the target is compared with {said} at every position"
            out = replace(out, contrasts=rows, notes=(*out.notes, note))
        return out

    def _everywhere(
        self, answers: int | Sequence[int], what: str, texts: Mapping[int, str]
    ) -> tuple[tuple[Ints, ...], str]:
        """The answers at every token, and what they are in words."""
        listed = [answers] * len(self) if isinstance(answers, int) else list(answers)
        if len(listed) != len(self):
            raise BadInput(
                f"{what}= has {len(listed)} answers and there are {len(self)} prompts; give one "
                "token, or one for each prompt"
            )
        pairs = zip(listed, self.tokens, strict=True)
        rows = tuple(frozen(np.full(len(row), token, np.int64)) for token, row in pairs)
        if not isinstance(answers, int):
            return rows, "the answer given for each prompt"
        text = texts.get(answers)
        return rows, f"token {answers}" if text is None else f"token {text!r} ({answers})"

    def fingerprint(self) -> str:
        """SHA-256 of tokens, special tokens, labels and explicit targets, as 64 hex digits."""
        digest = hashlib.sha256()
        answers = [rows for rows in (self.targets, self.contrasts) if rows is not None]
        arrays = [self.tokens, self.special, *answers]
        for rows in arrays:
            digest.update(f"|{len(rows)}".encode())
            for row in rows:
                # Kind and length go in, because rows of other lengths may join to the same bytes.
                digest.update(f"|{row.dtype.kind}{len(row)}|".encode() + row.tobytes())
        for name in sorted(self.labels):
            cells = [[tagged(cell) for cell in row] for row in self.labels[name]]
            digest.update(json.dumps([name, cells]).encode())
        return digest.hexdigest()


def new_names(names: Mapping[str, str], known: Iterable[str], what: str) -> dict[str, str]:
    """`{old: new}` of `{new: old}`, checked against the names that are there."""
    known = list(known)
    for new, old in names.items():
        if old not in known:
            raise BadInput(
                f"labels={{{new!r}: {old!r}}} renames {old!r}, which is no {what}"
                f"{nearest(old, known)} (known: {', '.join(known) or 'none'}); values of a label "
                "are a list, one for each prompt"
            )
        if new in known and new not in names.values():
            raise BadInput(f"labels={{{new!r}: {old!r}}}: there is a {what} {new!r} already")
        if list(names.values()).count(old) > 1:
            raise BadInput(f"labels= gives {old!r} more than one new name, {new!r} among them")
    return {old: new for new, old in names.items()}


Labeller = Callable[["Prompts"], "Prompts"]
