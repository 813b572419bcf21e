"""Pairs of prompts: a clean and a corrupted text each, and which of their tokens correspond.

Knows files, tables, texts and token ids; knows nothing of models.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from interp._arrays import Bools, Ints
from interp.errors import BadInput, nearest, unknown
from interp.prompts.formats import data_file
from interp.prompts.label_values import scalars, whole_text
from interp.prompts.prompts import Prompts
from interp.prompts.tabular import is_tabular, table_columns, table_name, table_rows
from interp.prompts.tokens import trimmed

SIDES = (("clean", "corrupted"), ("base", "contrast"))
"""Names of the two columns of a source of pairs."""
ANSWER, WRONG, SPANS = "answer", "wrong", "spans"
ALIGNMENTS = ("ends",)
PARTS = ("before", "changed", "after", "last")
"""Aligned tokens: before the first difference, with other ids, with equal ids after it, last."""
FILES = (".csv", ".jsonl", ".parquet")


@dataclass(frozen=True, eq=False)
class RawPairs:
    """Pairs as they were given: texts, or token ids, of both sides.

    Attributes:
        source: what they were read from.
        clean, corrupted: one text, or one array of ids, per pair.
        fields: labels by name, one value per pair.
        answers: by name (`answer`, `wrong`) one token per pair, as text or id.
        spans: per pair the parts that correspond, as given; None for none.
        replaced: names of answers of the source in whose place others were given.
    """

    source: str
    clean: tuple[Any, ...]
    corrupted: tuple[Any, ...]
    fields: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    answers: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    spans: tuple[Any, ...] | None = None
    replaced: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def of_texts(self) -> bool:
        """Whether the pairs are texts, not token ids."""
        return isinstance(self.clean[0], str)


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Pairs as token ids of one model, with their aligned tokens.

    Attributes:
        clean, corrupted: the two sides, a prompt per pair.
        places: per pair int64 `[n, 2]`, the positions of aligned tokens in the clean and in the
            corrupted prompt, ascending in both.
        answer, wrong: token ids per pair; None without.
        fields: labels by name, one value per pair.
        notes: what a reader of results should know.
    """

    clean: Prompts
    corrupted: Prompts
    places: tuple[Ints, ...]
    answer: tuple[int, ...] | None = None
    wrong: tuple[int, ...] | None = None
    fields: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def same(self) -> Bools:
        """Pairs whose two sides are the same tokens: bool `[pairs]`."""
        both = zip(self.clean.tokens, self.corrupted.tokens, strict=True)
        return np.asarray([np.array_equal(a, b) for a, b in both], dtype=bool)

    def index(self) -> pd.DataFrame:
        """A row per pair and place: both positions, tokens and ids, `part`, `special`, labels."""
        rows = pd.concat([self._rows(i) for i in range(len(self))], ignore_index=True)
        for name, values in self.fields.items():
            rows[name] = [values[i] for i in rows["pair"]]
        return rows

    def _rows(self, i: int) -> pd.DataFrame:
        columns: dict[str, Any] = {"pair": i, "place": np.arange(len(self.places[i]))}
        special = np.zeros(len(self.places[i]), bool)
        sides = (("clean", self.clean), ("corrupted", self.corrupted))
        for (side, prompts), at in zip(sides, self.places[i].T, strict=True):
            columns[f"{side}_position"] = at
            columns[f"{side}_token"] = [prompts.strings[i][p] for p in at]
            columns[f"{side}_token_id"] = prompts.tokens[i][at]
            special |= prompts.left_out[i][at]
        columns |= {"part": self.parts(i), "special": special}
        return pd.DataFrame(columns)

    def parts(self, i: int) -> list[str]:
        """The part of each aligned token of a pair, see `PARTS`."""
        a, b, places = self.clean.tokens[i], self.corrupted.tokens[i], self.places[i]
        first = equal_ends(a, b)[0]
        out = ["before" if p < first and q < first else "after" for p, q in places]
        for n, (p, q) in enumerate(places):
            if a[p] != b[q]:
                out[n] = "changed"
            elif p == len(a) - 1 and q == len(b) - 1:
                out[n] = "last"
        return out


def joined(first: Prompts, second: Prompts) -> Prompts:
    """Two sets of prompts with the same labels as one, the second after the first."""
    return replace(
        first,
        tokens=first.tokens + second.tokens,
        special=first.special + second.special,
        texts=first.texts + second.texts,
        spans=first.spans + second.spans,
        strings=first.strings + second.strings,
        labels={name: cells + second.labels[name] for name, cells in first.labels.items()},
    )


# ---- reading ---------------------------------------------------------------------------------


def read_pairs(
    source: Any,
    *,
    labels: Mapping[str, Sequence[Any]] | None = None,
    answer: Any = None,
    wrong: Any = None,
    spans: Sequence[Any] | None = None,
) -> RawPairs:
    """Reads pairs of prompts from lists, mappings, tables or files.

    A pair is `(clean, corrupted)`, or a mapping with the keys `clean` and `corrupted` (or `base`
    and `contrast`); each side is a text or a list of token ids. Further keys: `answer` and `wrong`,
    a token each; `spans`, the parts that correspond; any other one is a label. Files (.csv, .jsonl,
    .parquet) and tables have these as columns; one with two columns may call them as it likes, the
    first is the clean one.

    Args:
        source: list of pairs, mapping of columns, table, data set, or path of a file.
        labels: per name one value per pair.
        answer, wrong: one token, or one per pair, by text or id; they take the place of those of
            the source.
        spans: per pair the parts that correspond, see `aligned_by_spans`.

    Raises `BadInput` for anything that is no pair, and says where.

    >>> read_pairs([("He is her", "She is her")], answer=" son").clean
    ('He is her',)
    """
    raw = source if isinstance(source, RawPairs) else _from_rows(*_rows_of(source))
    answers = dict(raw.answers)
    for name, given in ((ANSWER, answer), (WRONG, wrong)):
        if given is not None:
            answers[name] = _per_pair(given, len(raw), name)
    if WRONG in answers and ANSWER not in answers:
        raise BadInput("there is a wrong answer and no right one: give answer= (--answer) as well")
    fields = dict(raw.fields)
    for name, values in (labels or {}).items():
        fields[name] = _label(name, values, len(raw))
    parts = raw.spans if spans is None else _spans(spans, len(raw))
    given = [name for name, value in ((ANSWER, answer), (WRONG, wrong)) if value is not None]
    others = [name for name in given if name in raw.answers and raw.answers[name] != answers[name]]
    replaced = tuple(dict.fromkeys((*raw.replaced, *others)))
    return replace(raw, answers=answers, fields=fields, spans=parts, replaced=replaced)


def _rows_of(source: Any) -> tuple[list[Any], str]:
    """The pairs of a source, still as given, and its name."""
    if isinstance(source, str | os.PathLike):
        return _file_rows(Path(source))
    if is_tabular(source):
        names = table_columns(source)
        what = f"the {table_name(source)}"
        return _named(table_rows(source), names, what), what
    if isinstance(source, Mapping):
        return _column_rows(source), "the mapping of columns"
    if isinstance(source, bytes) or not isinstance(source, Iterable):
        raise BadInput(
            f"cannot read pairs from {type(source).__name__}; allowed: a list of (clean, "
            f"corrupted), mappings or a table with {' and '.join(SIDES[0])}, or a file "
            f"({', '.join(FILES)})"
        )
    return list(source), "list of pairs"


def _file_rows(path: Path) -> tuple[list[Any], str]:
    file = data_file(str(path), SIDES[0][0])
    refuse_lines(str(path), file.shown)
    names = file.names()
    rows = []
    for number, row in file.read():
        if isinstance(row, str):
            raise BadInput(f"{file.shown!r}, {file.unit} {number}: {row}")
        rows.append(row)
    return _named(rows, names, file.shown), file.shown


def refuse_lines(path: str, shown: str) -> None:
    """Raises `BadInput` for a file of lines, none of which can be a pair."""
    if path.lower().removesuffix(".gz").endswith(".txt"):
        raise BadInput(
            f"{shown!r}: a .txt file has one text per line, and a pair has two; write a file "
            f"with the columns {' and '.join(SIDES[0])} ({', '.join(FILES)})"
        )


def mappings(source: Any) -> Any:
    """The pairs of lists and tables as mappings with `clean` and `corrupted`; paths as they are."""
    if isinstance(source, str | os.PathLike):
        return source
    rows, name = _rows_of(source)
    if not rows:
        raise BadInput(f"no pairs in {name}: at least one is needed")
    found = []
    for i, row in enumerate(rows):
        (clean, corrupted), others = _parted(row, i, name)
        found.append({"clean": clean, "corrupted": corrupted, **others})
    return found


def side_columns(names: Sequence[Any], what: str, *, declared: bool) -> tuple[str, str]:
    """The columns of the two sides; of two that a table declares, whatever they are called.

    Raises `BadInput` where there are none.

    >>> side_columns(["good", "bad"], "the file", declared=True)
    ('good', 'bad')
    """
    if declared and len(names) == 2 and not any(set(names) == set(sides) for sides in SIDES):
        return str(names[0]), str(names[1])
    return _sides(names, what)


def _column_rows(columns: Mapping[str, Any]) -> list[Any]:
    if all(isinstance(columns.get(name), str) for name in _sides(list(columns), "the mapping")):
        return [columns]
    cells = {str(name): list(values) for name, values in columns.items()}
    sizes = {name: len(values) for name, values in cells.items()}
    if len(set(sizes.values())) > 1:
        raise BadInput(f"the columns of the pairs differ in length: {sizes}")
    rows = [dict(zip(cells, row, strict=True)) for row in zip(*cells.values(), strict=True)]
    return _named(rows, list(cells), "the mapping")


def _named(rows: list[Any], names: Sequence[Any] | None, what: str) -> list[Any]:
    """Rows of a table with two columns, whatever these are called."""
    if names is None or len(names) != 2 or any(set(names) == set(sides) for sides in SIDES):
        return rows
    if "text" in names or _is_label(rows, names):
        raise BadInput(
            f"{what}: no columns {', '.join(SIDES[0])}; found {', '.join(map(str, names))}, which "
            "look like prompts with a label. A pair has two texts: call their columns 'clean' and "
            "'corrupted' (or 'base' and 'contrast')"
        )
    return [(row[names[0]], row[names[1]]) for row in rows]


def _is_label(rows: list[Any], names: Sequence[Any]) -> bool:
    """Whether one column has single words only, and the other texts of several only."""
    words = [{len(str(row.get(name, "")).split()) > 1 for row in rows} for name in names]
    return sorted(map(sorted, words)) == [[False], [True]]


def _from_rows(rows: list[Any], source: str) -> RawPairs:
    if not rows:
        raise BadInput(f"no pairs in {source}: at least one is needed")
    sides: list[tuple[Any, Any]] = []
    extra: list[Mapping[str, Any]] = []
    for i, row in enumerate(rows):
        pair, others = _parted(row, i, source)
        sides.append((_side(pair[0], "clean", i), _side(pair[1], "corrupted", i)))
        extra.append(others)
    kinds = {isinstance(side, str) for pair in sides for side in pair}
    if len(kinds) > 1:
        raise BadInput(f"{source} mixes texts and token ids; give one or the other")
    names = list(dict.fromkeys(name for row in extra for name in row))
    columns = {name: tuple(_known(row.get(name)) for row in extra) for name in names}
    spans = columns.pop(SPANS, None)
    answers = {n: _whole(n, columns.pop(n)) for n in (ANSWER, WRONG) if n in columns}
    return RawPairs(
        source,
        tuple(clean for clean, _ in sides),
        tuple(corrupted for _, corrupted in sides),
        {str(name): _label(str(name), values, len(rows)) for name, values in columns.items()},
        answers,
        spans,
    )


def _known(value: Any) -> Any:
    """A cell of a table; None where it is missing, which pandas writes as NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _parted(row: Any, i: int, source: str) -> tuple[tuple[Any, Any], Mapping[str, Any]]:
    """The two sides of a row, and what else it has."""
    if isinstance(row, Mapping):
        clean, corrupted = _sides(list(row), f"pair {i} of {source}")
        others = {name: cell for name, cell in row.items() if name not in (clean, corrupted)}
        return (row[clean], row[corrupted]), others
    if isinstance(row, str) or not isinstance(row, Sequence | np.ndarray):
        raise BadInput(
            f"pair {i} of {source} is {_seen(row)}; a pair is (clean, corrupted), or a mapping "
            "with these keys"
        )
    if len(row) != 2:
        raise BadInput(
            f"pair {i} of {source} has {len(row)} parts; a pair is (clean, corrupted). Answers and "
            f"labels have names: {{'clean': …, 'corrupted': …, '{ANSWER}': …}}"
        )
    return (row[0], row[1]), {}


def _sides(names: Sequence[Any], what: str) -> tuple[str, str]:
    """The names of the two sides; raises `BadInput` where there are none."""
    for clean, corrupted in SIDES:
        if clean in names and corrupted in names:
            return clean, corrupted
    lacking = next((n for side in SIDES for n in side if n not in names and _half(side, names)), "")
    hint = nearest(lacking or "corrupted", [str(n) for n in names])
    raise BadInput(
        f"{what} has {len(names)} columns ({', '.join(map(str, names)) or 'none'}), which do not "
        f"tell the two sides{hint}: call them 'clean' and 'corrupted' (or 'base' and 'contrast'); "
        "only a table of two columns may call them otherwise"
    )


def _half(side: tuple[str, str], names: Sequence[Any]) -> bool:
    return side[0] in names or side[1] in names


def _seen(row: Any) -> str:
    return f"one text ({row[:30]!r})" if isinstance(row, str) else type(row).__name__


def _side(value: Any, name: str, i: int) -> Any:
    """A text that is not empty, or ids."""
    value = _known(value)
    if value is None or (isinstance(value, str | Sequence) and not len(value)):
        raise BadInput(f"pair {i}: the {name} text is empty")
    if isinstance(value, str):
        return whole_text(f"pair {i}, {name}", value)
    ids = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    if ids.ndim != 1 or not ids.size or ids.dtype.kind not in "iu":
        raise BadInput(
            f"pair {i}: the {name} side is {type(value).__name__} of shape {ids.shape} and type "
            f"{ids.dtype}; a side is a text or one list of token ids"
        )
    return ids.astype(np.int64)


def _per_pair(given: Any, n: int, name: str) -> tuple[Any, ...]:
    """One token for all pairs, or one for each."""
    if isinstance(given, str | int | np.integer):
        return (given,) * n
    if not isinstance(given, Iterable):
        raise BadInput(
            f"{name}={given!r} is {type(given).__name__}; {name}= takes one token, such as ' her', "
            "or a list with one per pair"
        )
    listed = list(given)
    if len(listed) != n:
        raise BadInput(f"{name}= has {len(listed)} tokens and there are {n} pairs")
    return _whole(name, tuple(listed))


def _whole(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    for i, value in enumerate(values):
        if value is None:
            raise BadInput(f"pair {i} has no {name!r}, and others have one; give it to all or none")
    return values


def _label(name: str, values: Sequence[Any], n: int) -> tuple[Any, ...]:
    out = tuple(scalars(name, values))
    if len(out) != n:
        raise BadInput(f"label {name!r} has {len(out)} values and there are {n} pairs")
    return out


def _spans(spans: Sequence[Any], n: int) -> tuple[Any, ...]:
    if len(spans) != n:
        raise BadInput(f"spans= has {len(spans)} entries and there are {n} pairs: one each")
    return tuple(spans)


# ---- alignment -------------------------------------------------------------------------------


def equal_ends(a: Ints, b: Ints) -> tuple[int, int]:
    """Lengths of the equal beginning and of the equal end of two rows of ids; they never overlap.

    >>> equal_ends(np.array([1, 2, 3, 9]), np.array([1, 5, 6, 3, 9]))
    (1, 2)
    """
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    start = int(differ[0]) if len(differ) else n
    differ = np.flatnonzero(a[::-1][: n - start] != b[::-1][: n - start])
    return start, int(differ[0]) if len(differ) else n - start


def aligned(
    clean: Prompts, corrupted: Prompts, i: int, align: str | None = None, spans: Any = None
) -> Ints:
    """Positions of the tokens that correspond in pair `i`: int64 `[n, 2]`, ascending in both.

    Sides of the same length correspond one to one. Otherwise with `align="ends"` the equal tokens
    at both ends do, with `spans` what `aligned_by_spans` gives.

    Raises `BadInput` for sides of different length without either, with both lengths, the first
    place where they differ, and what to write.
    """
    if align is not None and align not in ALIGNMENTS:
        raise unknown("alignment", str(align), ALIGNMENTS)
    if spans is not None:
        return aligned_by_spans(clean, corrupted, i, spans)
    a, b = clean.tokens[i], corrupted.tokens[i]
    if len(a) == len(b):
        return _run(0, 0, len(a))
    start, end = equal_ends(a, b)
    if align is None:
        raise BadInput(
            f"pair {i}: the clean prompt has {len(a)} tokens and the corrupted one {len(b)}; they "
            f"first differ at position {start} ({_token(clean, i, start)} and "
            f"{_token(corrupted, i, start)}). Pass align='ends' (--align ends) to align what is "
            "equal at both ends, or spans= with the parts that correspond"
        )
    return np.vstack([_run(0, 0, start), _run(len(a) - end, len(b) - end, end)])


def _token(prompts: Prompts, i: int, position: int) -> str:
    strings = prompts.strings[i]
    return repr(strings[position]) if position < len(strings) else "no more tokens"


def _run(a: int, b: int, n: int) -> Ints:
    """n successive places from positions a and b on."""
    steps = np.arange(n, dtype=np.int64)
    return np.stack([a + steps, b + steps], axis=1)


def aligned_by_spans(clean: Prompts, corrupted: Prompts, i: int, spans: Any) -> Ints:
    """Positions of the tokens that correspond, by given parts of both prompts: `[n, 2]`.

    Args:
        spans: one pair of parts, or a list of them in their order: `((start, end), (start, end))`,
            in characters of the texts (in positions where ids were given), or the words
            themselves, which must occur once: `("Mary", "Anna Lee")`. Parts of the same number of
            tokens correspond one to one, others by their last tokens; what lies before, between
            and after the parts must have the same number of tokens on both sides.

    Raises `BadInput` for a part that is not in its text and for what does not fit.
    """
    out, at = [], (0, 0)
    for part in _listed(spans, i):
        a = token_span(clean, i, part[0], "clean")
        b = token_span(corrupted, i, part[1], "corrupted")
        out += [_between(at, (a[0], b[0]), i, "before the part"), _by_last(a, b)]
        at = (a[1], b[1])
    ends = (len(clean.tokens[i]), len(corrupted.tokens[i]))
    return np.vstack([*out, _between(at, ends, i, "after the last part")])


def _by_last(a: tuple[int, int], b: tuple[int, int]) -> Ints:
    # The last token of a name has read all of it, so it is the last ones that correspond.
    n = min(a[1] - a[0], b[1] - b[0])
    return _run(a[1] - n, b[1] - n, n)


def _between(at: tuple[int, int], to: tuple[int, int], i: int, where: str) -> Ints:
    sizes = (to[0] - at[0], to[1] - at[1])
    if min(sizes) < 0:
        raise BadInput(f"pair {i}: the parts of spans overlap or are not in their order")
    if sizes[0] != sizes[1]:
        raise BadInput(
            f"pair {i}: {where} that spans gives there are {sizes[0]} clean and {sizes[1]} "
            "corrupted tokens, which cannot be one to one; give the parts that differ as spans too"
        )
    return _run(at[0], at[1], sizes[0])


def _listed(spans: Any, i: int) -> list[Any]:
    """The parts as a list of two sides each."""
    if not isinstance(spans, Iterable):
        raise BadInput(
            f"pair {i}: spans has {spans!r}; give the two parts that correspond, such as "
            "('Mary', 'Anna Lee')"
        )
    given = list(_as_lists(spans))
    if len(given) == 2 and not all(_is_part(part) for part in given):
        given = [given]
    for part in given:
        if not _is_part(part):
            raise BadInput(
                f"pair {i}: spans={spans!r}; a part is ((start, end), (start, end)), or the words "
                "themselves: ('Mary', 'Anna')"
            )
    return given


def _as_lists(value: Any) -> Any:
    """Arrays, as tables hold them, as lists."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    return [_as_lists(v) for v in value] if isinstance(value, list) else value


def _is_part(part: Any) -> bool:
    """Whether it is two sides, each (start, end) or words."""
    sides = isinstance(part, Sequence) and not isinstance(part, str) and len(part) == 2
    return sides and all(isinstance(side, str) or _is_range(side) for side in part)


def _is_range(side: Any) -> bool:
    whole = isinstance(side, Sequence | np.ndarray) and not isinstance(side, str)
    return whole and len(side) == 2 and all(isinstance(x, int | np.integer) for x in side)


def token_span(prompts: Prompts, i: int, side: Any, name: str) -> tuple[int, int]:
    """First token of a part of prompt `i`, and the one after its last.

    Args:
        side: `(start, end)` in characters of the text, in positions where there is none; or words.
        name: of the side, for messages.
    """
    text, spans = prompts.texts[i], prompts.spans[i]
    if isinstance(side, str):
        side = _place_of(side, text, i, name)
    start, end = (int(x) for x in side)
    limit = len(prompts.tokens[i]) if text is None or spans is None else len(text)
    if not 0 <= start < end <= limit:
        unit = "tokens" if text is None or spans is None else "characters"
        raise BadInput(
            f"pair {i}: the span ({start}, {end}) lies outside of the {name} prompt, which has "
            f"{limit} {unit}"
        )
    if text is None or spans is None:
        return start, end
    own = trimmed(spans, text)
    hit = np.flatnonzero((own[:, 0] < end) & (own[:, 1] > start) & (own[:, 1] > own[:, 0]))
    if not len(hit):
        raise BadInput(
            f"pair {i}: the span ({start}, {end}) of the {name} prompt holds no token "
            f"({text[start:end]!r})"
        )
    return int(hit[0]), int(hit[-1]) + 1


def _place_of(words: str, text: str | None, i: int, name: str) -> tuple[int, int]:
    found = 0 if text is None else text.count(words)
    if text is None or found != 1:
        raise BadInput(
            f"pair {i}: {words!r} occurs {found} times in the {name} prompt ({text!r}); give its "
            "place, (start, end)"
        )
    start = text.index(words)
    return start, start + len(words)
