"""A tidy frame as arrays: selection of rows, checks of columns, one value per token and layer.

Knows columns, not what they measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api import types

from interp._arrays import Bools, Floats
from interp.contract.columns import DEPTHS, by_name, depth_column
from interp.contract.not_measured import not_measured
from interp.errors import BadInput, nearest, unknown

# The columns that distinguish rows of the result, where the frame has them.
DEFAULT_BY = ("stack", *DEPTHS, "head")
# The columns that identify a token; the other columns repeat for it in every layer.
TOKEN = ("prompt", "position", "stack")
# The columns in front of a table of several models.
MEMBER = {"member", "at"}
# The columns of every summary; labels, and bins of values and tokens, come in addition.
SUMMARY = {"value", "n", "mean", "std", "undefined"}
BOOLEANS = {"true", "false"}
# The columns that name a row of a table of tokens, or of pairs of them, in every model alike.
ROW = (
    *("stack", "layer", "head", "prompt", "position", "offset", "dimension"),
    *("prompt_a", "prompt_b", "position_a", "position_b", "layer_a", "layer_b"),
)
EVERYWHERE = (-np.inf, np.inf)
"""The range of a column of which none is declared."""


class HasFrame(Protocol):
    """Anything with a tidy table in `.frame`, such as a Result."""

    @property
    def frame(self) -> pd.DataFrame: ...


def _has_frame(source: object) -> TypeGuard[HasFrame]:
    return isinstance(getattr(source, "frame", None), pd.DataFrame)


def frame_of(source: HasFrame | pd.DataFrame) -> pd.DataFrame:
    """The table of a Result, or the DataFrame itself.

    Raises `BadInput` for anything else, and for a table of several models, whose tokens are no
    samples of one and the same thing.
    """
    frame = source if isinstance(source, pd.DataFrame) else getattr(source, "frame", None)
    if not isinstance(frame, pd.DataFrame):
        kind = type(source).__name__
        raise BadInput(f"a table is needed, not {kind}: pass a Result or a DataFrame")
    members = list(frame["member"].unique()) if set(frame.columns) >= MEMBER else []
    if len(members) > 1:
        raise BadInput(
            f"the table holds {len(members)} models of a series, {members[0]!r} the first; give "
            f"one: series.member({members[0]!r}), in a shell its folder in members/. "
            "compare_members and change_points (interp members, interp changes) compare them"
        )
    return frame


def table_with(results: Mapping[str, Any], value: str, usual: str = "") -> str:
    """Name of the table, of several, that a value column is taken from.

    The only table there is, else the only one that has the column; `usual`, where it is among
    several that have it, or where none has. Raises `BadInput` that names the tables which have it,
    `UnknownName` where none has it.
    """
    if len(results) == 1:
        return next(iter(results))
    columns = {name: _columns_of(results[name]) for name in results}
    having = [name for name, found in columns.items() if value in found]
    if usual in having or (usual in columns and not having):
        return usual
    if not having:
        raise not_measured("value column", value, sorted(set().union(*columns.values())))
    if len(having) == 1:
        return having[0]
    raise BadInput(
        f"{value!r} is a column of {len(having)} tables: {', '.join(having)}; choose one: "
        f"--analysis {having[0]}, or results[{having[0]!r}]"
    )


def _columns_of(table: Any) -> set[str]:
    """Columns of a table, of a summary also the values; rows on disk are not loaded."""
    dataset = getattr(table, "dataset", None)
    if dataset is not None:
        return set(dataset.schema.names)
    frame = table.frame
    return {str(c) for c in frame} | (set(frame["value"]) if is_summary(frame) else set())


def is_summary(frame: pd.DataFrame) -> bool:
    """True for a table with moments per group instead of rows per token."""
    return set(frame.columns) >= SUMMARY


def unit_of(source: object, value: str) -> str:
    """Unit of a column of a Result, as its analysis declares it for a figure; "" if unknown."""
    plots = getattr(getattr(source, "analysis", None), "plots", ())
    plot = next((p for p in plots if value in p.values and p.unit), None)
    if plot is None:
        return ""
    units = plot.unit.split(", ")  # one for all values, or one for each
    return str(units[plot.values.index(value)] if len(units) == len(plot.values) else plot.unit)


def range_of(source: object, value: str) -> tuple[float, float]:
    """Least and largest possible value of a column of a Result, as its analysis declares them.

    Without a declaration there are none: (−inf, inf).
    """
    declared = getattr(getattr(source, "analysis", None), "ranges", {})
    return by_name(declared, value) or EVERYWHERE


def control_of(source: object) -> HasFrame | None:
    """The result of the untrained copy, if a Result carries one."""
    control = getattr(source, "control", None)
    return control if _has_frame(control) else None


def less_control(
    frame: pd.DataFrame, control: pd.DataFrame, values: Sequence[str]
) -> pd.DataFrame | None:
    """The table with the untrained copy's `values` subtracted, row by row.

    Both models read the same prompts, so their values are paired: whether a result departs from
    that of the copy is a question about this table. Two intervals that overlap answer nothing, for
    they know neither the pairs nor the difference. A row that the copy lacks is NaN.

    None where rows cannot be matched: a summary keeps none, and a table of weights has no prompts.

    >>> rows = pd.DataFrame({"prompt": [0, 1], "position": [0, 0], "angle": [5.0, 7.0]})
    >>> less_control(rows, rows[::-1].assign(angle=[4.0, 3.0]), ["angle"])["angle"].tolist()
    [2.0, 3.0]
    """
    keys = [c for c in ROW if c in frame and c in control]
    tokens = not is_summary(frame) and {"prompt", "prompt_a"} & set(keys)
    known = [v for v in values if v in control and v in frame]
    if not tokens or not known:
        return None
    # Two runs over the same prompts have the same rows in the same order, nearly always.
    if len(frame) == len(control) and (frame[keys].to_numpy() == control[keys].to_numpy()).all():
        beside = control
    elif frame.duplicated(keys).any() or control.duplicated(keys).any():
        return None
    else:
        beside = frame[keys].merge(control[[*keys, *known]], on=keys, how="left")
    return frame.assign(**{v: numbers(frame, v) - numbers(beside, v) for v in known})


def require_columns(frame: pd.DataFrame, names: Sequence[str], kind: str = "column") -> None:
    """Raise `UnknownName`, with the nearest one, for a column that the frame lacks."""
    for name in names:
        if name not in frame.columns:
            build = not_measured if kind == "value column" else unknown
            raise build(kind, str(name), [str(c) for c in frame.columns])


def numbers(frame: pd.DataFrame, name: str) -> Floats:
    """A value column as float64 `[rows]`; NaN and infinite entries become NaN.

    Raises `UnknownName` for a missing and `BadInput` for a non-numeric column.
    """
    require_columns(frame, [name], "value column")
    column = frame[name]
    if not (types.is_numeric_dtype(column) or types.is_bool_dtype(column)):
        numeric = [str(c) for c in frame.columns if types.is_numeric_dtype(frame[c])]
        seen = column.dropna().head(1).tolist()
        example = f" (for example {seen[0]!r})" if seen else ""
        raise BadInput(
            f"column {name!r} is {column.dtype}, not numeric{example}; "
            f"numeric columns: {', '.join(numeric) or 'none'}"
        )
    x: Floats = np.array(column.to_numpy(dtype=np.float64, na_value=np.nan), dtype=np.float64)
    x[~np.isfinite(x)] = np.nan
    return x


def is_special(frame: pd.DataFrame, keep: bool) -> Bools:
    """Mask of the rows left out as special tokens: `[rows]`; none of them with `keep`."""
    if keep or "special" not in frame.columns:
        return np.zeros(len(frame), bool)
    return np.asarray(frame["special"].eq(True).fillna(False), dtype=bool)


def left_out_note(frame: pd.DataFrame, left_out: Bools, what: str = "special tokens") -> str:
    """A note on the number of rows left out, and on those left out for their norm; "" if none.

    `what` names them in the note.
    """
    rows = frame[left_out]
    # A token has a row per layer and head: tokens are counted once, rows as they are.
    if what == "special tokens":
        rows = rows.drop_duplicates([c for c in ("stack", "prompt", "position") if c in rows])
    if not len(rows):
        return ""
    massive = int(rows["massive"].eq(True).sum()) if "massive" in rows else 0
    first = f", {massive} of them first tokens with a massive norm" if massive else ""
    return f"{len(rows)} {what} were left out{first} (--special, or special=True, keeps them)"


def repeated_note(frame: pd.DataFrame, prompts: Sequence[object]) -> str:
    """A note on prompts that are the same token by token; "" where none is, or cannot be told.

    Values of the same tokens are the same, so that such prompts are no independent samples.
    Prompts of which the table lacks tokens, or has one only, are not judged.
    """
    name = next((c for c in ("token_id", "token") if c in frame), None)
    if name is None or not {"prompt", "position"} <= set(frame.columns):
        return ""
    rows = frame[frame["prompt"].isin(prompts)]
    for axis in ("stack", *DEPTHS):
        # Tokens repeat in every layer; one layer of one stack has them once, heads apart.
        if axis in rows and len(rows):
            rows = rows[rows[axis] == rows[axis].iloc[0]]
    rows = rows.drop_duplicates(["prompt", "position"]).sort_values(["prompt", "position"])
    texts = rows.groupby("prompt")
    whole = texts["position"].max() + 1 == texts.size()
    found = texts[name].agg(tuple)[whole & (texts.size() > 1)]
    again = int(found.duplicated().sum())
    if not again:
        return ""
    return (
        f"{again} of {len(texts)} prompts repeat another one token by token: they are no "
        "independent samples, so that intervals are too narrow and p too small"
    )


def places_of(frame: pd.DataFrame) -> list[str]:
    """The columns that tell rows of one token apart: stack, one of depth, and head.

    >>> places_of(pd.DataFrame({"prompt": [0], "state": [1], "angle": [2.0]}))
    ['state']
    """
    # A label of the user may be called `state`, of words such as Ohio.
    depth = depth_column(frame.select_dtypes("number").columns)
    usual = [name for name in DEFAULT_BY if name not in DEPTHS or name == depth]
    return [name for name in usual if name in frame.columns]


def rows_by(frame: pd.DataFrame, by: str | Sequence[str] | None, used: Sequence[str]) -> list[str]:
    """The columns that distinguish the result's rows; none of them may be in `used`."""
    if by is None:
        return [name for name in places_of(frame) if name not in used]
    names = [by] if isinstance(by, str) else list(by)
    require_columns(frame, names)
    clash = [name for name in names if name in used]
    if clash:
        raise BadInput(f"by={names!r} names {clash[0]!r}, which the comparison already uses")
    return names


def group_named(frame: pd.DataFrame, between: str, group: object) -> object:
    """`group` as the column has it: a typed "true" where the labels are booleans, "1" for 1."""
    if not isinstance(group, str) or between not in frame:
        return group
    return label_typed(group, frame[between].dropna().unique().tolist())


def label_typed(typed: object, labels: Iterable[Any]) -> object:
    """The label that a typed word means, as labels of numbers and booleans are no text.

    >>> label_typed("1", [0, 1]), label_typed("TRUE", [True, False]), label_typed("0.50", [0.5])
    (1, True, 0.5)
    >>> label_typed("1", ["1", 1]), label_typed("verb", [0, 1])
    ('1', 'verb')
    """
    known = list(labels)
    if not isinstance(typed, str) or any(isinstance(v, str) and v == typed for v in known):
        return typed
    if not {str(v).casefold() for v in known} <= BOOLEANS:  # a summary has booleans as text
        known = [v for v in known if not isinstance(v, str)]
    # As written first: a whole number beyond 2**53 is another one as a float.
    same = [v for v in known if typed.casefold() == str(v).casefold()]
    return next(iter(same or [v for v in known if _equals(typed, v)]), typed)


def _equals(typed: str, label: Any) -> bool:
    """Whether a typed word is a label's number."""
    if isinstance(label, bool | np.bool_) or not isinstance(label, Real):
        return False
    try:
        return float(typed) == label
    except ValueError:
        return False


def require_groups(frame: pd.DataFrame, left_out: pd.Series, between: str, *groups: object) -> None:
    """Raise `BadInput` for a group that does not occur, listing those that do with counts."""
    column = frame[between]
    for group in groups:
        if bool((column == group).any()):
            continue
        if bool((left_out == group).any()):
            raise BadInput(
                f"{between} {group!r} occurs in special tokens only, which are left out; "
                "--special, or special=True, keeps them"
            )
        hint = nearest(str(group), [str(v) for v in column.unique()])
        raise BadInput(f"{between} has no rows {group!r}{hint}; it holds {_groups(column)}")


def require_two(frame: pd.DataFrame, between: str, special: bool, a: object, b: object) -> None:
    """Raise `BadInput` where a group to compare is not given, listing those that there are."""
    if a is not None and b is not None:
        return
    require_columns(frame, [between])
    column = frame.loc[~is_special(frame, special), between]
    first, second = [*map(repr, column.value_counts().index[:2]), "…", "…"][:2]
    raise BadInput(
        f"two groups of {between!r} are compared, and {'a' if a is None else 'b'} is not given; it "
        f"holds {_groups(column)}: pass them, as in a={first}, b={second}"
    )


def _groups(column: pd.Series[Any]) -> str:
    """The groups of a label column with their numbers of rows, the first twelve of them."""
    counts = column.value_counts()
    listed = ", ".join(f"{v!r} ({n} rows)" for v, n in list(counts.items())[:12])
    more = f", and {len(counts) - 12} more" if len(counts) > 12 else ""
    return f"{listed or 'no values'}{more}"


@dataclass(frozen=True)
class Grid:
    """Values of both groups as one array: a line per token, a column per row of the result.

    A token that a layer lacks, or has NaN for, is NaN here.
    """

    cells: Floats  # [n, k]
    labels: Bools  # [n], True = group a
    clusters: NDArray[np.int64]  # [n]
    keys: pd.DataFrame  # [k, by]
    undefined_a: NDArray[np.int64]  # [k], rows whose value is NaN
    undefined_b: NDArray[np.int64]
    averaged: int  # rows of the frame behind one value, at most
    covariates: Floats | None = None  # [n, q]

    def group(self, of_a: bool) -> Floats:
        """The values of one group: `[n_a, k]` or `[n_b, k]`."""
        return self.cells[self.labels if of_a else ~self.labels]


def grid(
    frame: pd.DataFrame,
    x: Floats,
    labels: Bools,
    by: Sequence[str],
    cluster: str,
    covariates: Sequence[str] = (),
) -> Grid:
    """Arrange values `[rows]` by token and result row; several values of one cell are averaged.

    Raises `BadInput` for a covariate that is not one number per token.
    """
    row, keys = numbered(frame, by)
    token = _tokens(frame, labels, row, cluster)
    # Sums by the number of the cell: a pivot table would build an index of objects first.
    n, k = int(token.max()) + 1, len(keys)
    finite = np.isfinite(x)
    cell = token * k + row
    count = np.bincount(cell[finite], minlength=n * k)
    total = np.bincount(cell[finite], weights=x[finite], minlength=n * k)
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    _, first = np.unique(token, return_index=True)
    codes, _ = pd.factorize(frame[cluster].iloc[first])
    return Grid(
        cells=mean.reshape(n, k),
        labels=labels[first],
        clusters=codes.astype(np.int64),
        keys=keys,
        undefined_a=np.bincount(row[~finite & labels], minlength=k),
        undefined_b=np.bincount(row[~finite & ~labels], minlength=k),
        averaged=int(np.bincount(cell).max()),
        covariates=_of_tokens(frame, token, first, covariates) if covariates else None,
    )


def _of_tokens(
    frame: pd.DataFrame, token: NDArray[np.int64], first: NDArray[np.int64], names: Sequence[str]
) -> Floats:
    """Columns that have one number per token: `[n, q]`."""
    columns = []
    for name in names:
        x = numbers(frame, name)
        own = x[first]
        varies = ~((x == own[token]) | (np.isnan(x) & np.isnan(own[token])))
        if varies.any():
            raise BadInput(
                f"covariate {name!r} varies between the rows of a token, such as its layers; it "
                "has to be one number per token (a label, or position)"
            )
        columns.append(own)
    return np.column_stack(columns)


def numbered(frame: pd.DataFrame, by: Sequence[str]) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """A number for each combination of the `by` columns, in their order, and the combinations."""
    if not by:
        return np.zeros(len(frame), np.int64), pd.DataFrame(index=range(1))
    row = np.asarray(frame.groupby(list(by), sort=True, dropna=False).ngroup(), np.int64)
    _, first = np.unique(row, return_index=True)
    return row, frame[list(by)].iloc[first].reset_index(drop=True)


def _tokens(
    frame: pd.DataFrame, labels: Bools, row: NDArray[np.int64], cluster: str
) -> NDArray[np.int64]:
    """A number for each token: the same one in every layer."""
    names = list(dict.fromkeys([cluster, *(name for name in TOKEN if name in frame.columns)]))
    parts = frame[names].assign(_group=labels)
    # Without positions, the rows of one prompt are matched over layers by their order.
    if "position" not in names:
        order = frame[names].assign(_group=labels, _row=row)
        parts["_order"] = order.groupby([*names, "_group", "_row"], dropna=False).cumcount()
    token = parts.groupby(list(parts.columns), sort=True, dropna=False).ngroup()
    return np.asarray(token, np.int64)
