"""Tokens of the page: which prompts are shown, in which order, and where a table's rows belong.

Knows token tables; nothing of what is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Array, Bools, Ints
from interp.contract.columns import ATTACHED, INDEX
from interp.render.packed import packed
from interp.runs.report.views import ResultsLike

PLACE = ("stack", "prompt", "position")
_POSITIONS = 1 << 22  # more than any context has
NONE = -1
Id = int | str


@dataclass(frozen=True, eq=False)
class Shown:
    """The tokens of a page, prompt by prompt.

    Attributes:
        frame: a row per token in the order of the page: `prompt`, `position`, `token`, and
            whatever else the token table has.
        of: number of prompts of the run, shown or not.
        partial: whether the token table has prompts that are not shown.
    """

    frame: pd.DataFrame
    of: int
    partial: bool = False

    @cached_property
    def stacks(self) -> list[str]:
        """Names of the stacks of a model with two, in their order; `[""]` for others."""
        if "stack" not in self.frame:
            return [""]
        return list(dict.fromkeys(self.frame["stack"].astype(str))) or [""]

    @cached_property
    def _groups(self) -> pd.DataFrame:
        """A row per prompt (and stack): its first row of `frame`, and its names."""
        keys = [c for c in ("prompt", "stack") if c in self.frame]
        first = ~self.frame.duplicated(keys)
        return self.frame[first][keys].assign(start=np.flatnonzero(first.to_numpy()))

    @cached_property
    def ids(self) -> list[Id]:
        """A name per prompt: its number; of a model with two stacks the stack as well."""
        groups = self._groups
        stacks = groups["stack"] if "stack" in groups else [""] * len(groups)
        pairs = zip(groups["prompt"], stacks, strict=True)
        return [self.id_of(prompt, stack) for prompt, stack in pairs]

    def id_of(self, prompt: Any, stack: Any = "") -> Id:
        """The name of a prompt of one stack."""
        return f"{int(prompt)} {stack}" if len(self.stacks) > 1 else int(prompt)

    @property
    def starts(self) -> Ints:
        """Where each prompt begins, and the number of all tokens: `[prompts + 1]`."""
        return np.append(self._groups["start"].to_numpy(dtype=np.int64), len(self.frame))

    def tokens_of(self, prompt: int, stack: str = "") -> slice:
        """The rows of one prompt; an empty slice for one that is not shown."""
        name = self.id_of(prompt, stack)
        if name not in self.ids:
            return slice(0, 0)
        i = self.ids.index(name)
        return slice(int(self.starts[i]), int(self.starts[i + 1]))

    def rows_of(self, table: pd.DataFrame) -> Ints:
        """For every row of a table the row of `frame` that it belongs to; -1 for others."""
        own, keys = self._keys(self.frame), self._keys(table)
        if not len(own):
            return np.full(len(keys), NONE, dtype=np.int64)
        order = np.argsort(own, kind="stable")
        place = np.searchsorted(own[order], keys).clip(max=len(own) - 1)
        found = order[place]
        return np.where(own[found] == keys, found, NONE)

    def _keys(self, table: pd.DataFrame) -> Ints:
        """A number per row that is the same for the same token."""
        prompt = table["prompt"].to_numpy(dtype=np.int64)
        position = table["position"].to_numpy(dtype=np.int64)
        stack: Any = 0
        if "stack" in table:
            codes = {name: i for i, name in enumerate(self.stacks)}
            stack = table["stack"].astype(str).map(codes).fillna(len(codes)).to_numpy(np.int64)
        keys: Ints = (prompt * (len(self.stacks) + 1) + stack) * _POSITIONS + position
        return keys

    # ---- what the page is told -------------------------------------------------------------

    def prompts(self) -> dict[str, Any]:
        """Names, extents and labels of the prompts, as the page reads them."""
        first = self._groups["start"].to_numpy()
        labels = {
            name: [plain(self.frame[name].iloc[i]) for i in first] for name in self._of_prompts
        }
        return {"id": self.ids, "start": packed(self.starts, "i4"), "labels": labels}

    def tokens(self) -> dict[str, Any]:
        """Texts, kinds and labels of the tokens, as the page reads them."""
        codes, texts = pd.factorize(self.frame["token"].map(_text), use_na_sentinel=False)
        kinds = {
            "special": self._flags("special"),
            "word": self._begins_word(),
            "generated": self._flags("generated"),
        }
        labels = {name: _coded(self.frame[name]) for name in self.labels}
        return {
            "texts": [str(t) for t in texts],
            "index": packed(codes, "i4"),
            **{name: None if x is None else packed(x, "u1") for name, x in kinds.items()},
            "labels": {name: told for name, told in labels.items() if name not in self._of_prompts},
        }

    @cached_property
    def labels(self) -> list[str]:
        """Columns that came with the prompts, and the mark of massive first tokens."""
        fixed = {*INDEX, *ATTACHED, "generated"} - {"massive"}
        return [str(c) for c in self.frame if c not in fixed and self.frame[c].notna().any()]

    @cached_property
    def _of_prompts(self) -> list[str]:
        """The labels that all tokens of a prompt share, for every prompt."""
        group = np.repeat(np.arange(len(self.ids)), np.diff(self.starts))
        shared = []
        for name in self.labels:
            codes, _ = pd.factorize(self.frame[name].map(str), use_na_sentinel=False)
            alike = codes == codes[self.starts[:-1]][group] if len(codes) else np.ones(0, bool)
            if alike.all():
                shared.append(name)
        return shared

    def _flags(self, name: str) -> Bools | None:
        if name not in self.frame:
            return None
        return self.frame[name].eq(True).fillna(False).to_numpy(dtype=bool)

    def _begins_word(self) -> Bools | None:
        """Whether each token is the first of its word; None where words are not known."""
        if "word" not in self.frame:
            return None
        word = pd.to_numeric(self.frame["word"], errors="coerce").fillna(NONE).to_numpy(np.int64)
        before = np.append(NONE, word[:-1])
        before[self.starts[:-1]] = NONE
        return (word >= 0) & (word != before) if (word >= 0).any() else None


def shown_of(
    tokens: pd.DataFrame, most: int, kept: Iterable[int] = (), of: int | None = None
) -> Shown:
    """The prompts to show: all of them, or as many as `most` tokens allow.

    Args:
        tokens: the token table of a run.
        most: number of tokens; one prompt is shown however long it is.
        kept: prompts of which more than numbers was kept; they are shown first.
        of: number of prompts of the run, if the table does not have them all.

    The others are taken at even distances, so that the same run shows the same prompts.
    """
    columns = [c for c in PLACE if c in tokens]
    if not {"prompt", "position"} <= set(columns):
        return Shown(pd.DataFrame({"prompt": [], "position": [], "token": []}), of or 0)
    lengths = tokens.groupby("prompt", sort=True).size()
    chosen = _chosen(lengths, most, [p for p in dict.fromkeys(kept) if p in lengths.index])
    partial = len(chosen) < len(lengths)
    frame = tokens[tokens["prompt"].isin(chosen)] if partial else tokens
    if "stack" in columns:
        names = _first(dict.fromkeys(frame["stack"].astype(str)))
        # By prompt, then stack: an encoder's tokens stand before those of its decoder.
        codes = frame["stack"].astype(str).map({name: i for i, name in enumerate(names)})
        ordered = frame.assign(_stack=codes).sort_values(["prompt", "_stack", "position"])
        frame = ordered.drop(columns="_stack")
    else:
        frame = frame.sort_values(["prompt", "position"])
    return Shown(frame.reset_index(drop=True), of or len(lengths), partial)


def _first(stacks: Iterable[str]) -> list[str]:
    """The encoder before the others."""
    return sorted(stacks, key=lambda name: name != "encoder")


def _chosen(lengths: pd.Series[Any], most: int, kept: Sequence[int]) -> list[int]:
    if lengths.sum() <= most:
        return list(lengths.index)
    chosen: list[int] = []
    left = most
    for prompt in [*kept, *_spread([p for p in lengths.index if p not in set(kept)])]:
        if chosen and lengths[prompt] > left:
            continue
        chosen.append(prompt)
        left -= int(lengths[prompt])
    return sorted(chosen)


def _spread(items: Sequence[int]) -> list[int]:
    """The items in an order of which every beginning is spread evenly over all of them."""
    # By the fractional parts of multiples of the golden ratio: those below any bound lie at nearly
    # even distances.
    place = np.arange(len(items)) * 0.6180339887498949 % 1.0
    return [items[i] for i in np.argsort(place, kind="stable").tolist()]


def _coded(column: pd.Series[Any]) -> dict[str, Any]:
    """A label as its values and an index into them; -1 for none."""
    cells = [plain(cell) for cell in column.tolist()]
    # By type as well: 1, 1.0 and True are one key of a dictionary.
    values: dict[Any, int] = {}
    codes = [
        NONE if cell is None else values.setdefault((type(cell), cell), len(values))
        for cell in cells
    ]
    return {"values": [value for _, value in values], "index": packed(codes, "i4")}


def plain(value: Any) -> Any:
    """A label as a JSON value; None for a missing one."""
    if value is None or value is pd.NA or value != value or str(value) == "":
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value if isinstance(value, bool | int | float | str) else str(value)


def _text(token: Any) -> str:
    return "∅" if token is None or token != token else str(token)


def floats(values: Array) -> list[float | None]:
    """Numbers as JSON values, None for those that are not defined."""
    return [float(f"{v:.8g}") if np.isfinite(v) else None for v in np.asarray(values, np.float64)]


def whole(depths: Iterable[Any]) -> list[Any]:
    """Layer numbers as JSON values."""
    return [int(d) if float(d).is_integer() else float(d) for d in depths]


def of_stack(frame: pd.DataFrame, stack: str) -> pd.DataFrame:
    """The rows of one stack of a model with two; all rows of others."""
    return frame[frame["stack"].astype(str) == stack] if stack and "stack" in frame else frame


def kept_prompts(results: ResultsLike, names: Sequence[str]) -> list[int]:
    """Prompts of which arrays of these names were kept, in their order."""
    found = [
        prompt
        for result in results.values()
        for name in names
        for items in result.examples(name).values()
        for prompt in items
    ]
    return sorted(set(found))
