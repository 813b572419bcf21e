"""Members of different depth on one axis: layers by number, or by their share of the depth.

Knows tables with columns `member` and `layer`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from interp._arrays import Floats, Ints
from interp.errors import BadInput
from interp.stats.table import is_summary


def layers_of(frame: pd.DataFrame) -> dict[str, Ints]:
    """The layers of every member's table, ascending."""
    return {
        str(name): np.sort(rows["layer"].dropna().unique()).astype(np.int64)
        for name, rows in frame.groupby("member", sort=False)
    }


def at_relative_depth(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """The table with a value at equal shares of the depth: as many layers as the shallowest has.

    Layer i of m stands at the share i / (m − 1) of the depth, and a member's value there is
    interpolated between its two layers around it, token by token; over heads it is a mean. A member
    with m layers keeps its values.

    Raises `BadInput` for a table without layers.
    """
    if "layer" not in frame or frame["layer"].isna().all():
        raise BadInput("depth='relative' needs a table with layers")
    if is_summary(frame):
        raise BadInput("depth='relative' needs a row per token; a summary has moments only")
    stacks = ["stack"] if "stack" in frame else []
    parts = [rows for _, rows in frame.groupby(stacks)] if stacks else [frame]
    return pd.concat([_of_stack(part, value) for part in parts], ignore_index=True)


def _of_stack(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    fewest = min(len(layers) for layers in layers_of(frame).values())
    found = [_of_member(rows, value, fewest) for _, rows in frame.groupby("member", sort=False)]
    return pd.concat(found, ignore_index=True)


def _of_member(rows: pd.DataFrame, value: str, fewest: int) -> pd.DataFrame:
    keys = [c for c in ("prompt", "position") if c in rows] or ["member"]
    wide = rows.groupby([*keys, "layer"], sort=True)[value].mean().unstack("layer")  # noqa: PD010
    mixed = interpolated(wide.to_numpy(np.float64), fewest)
    long = pd.DataFrame(mixed, index=wide.index, columns=range(fewest))
    long = pd.DataFrame({value: long.rename_axis(columns="layer").stack()}).reset_index()  # noqa: PD013
    about = rows.drop(columns=["layer", value, *(["head"] if "head" in rows else [])])
    return long.merge(about.drop_duplicates(keys), on=keys, how="left")


def interpolated(values: Floats, fewest: int) -> Floats:
    """Values at `fewest` places from 0 to 1, from those at as many as there are columns.

    An undefined value is used only where it has a weight.

    >>> interpolated(np.array([[0.0, 4.0, 2.0]]), 2).tolist()
    [[0.0, 2.0]]
    """
    wanted = np.linspace(0, values.shape[1] - 1, fewest)
    low = wanted.astype(np.int64)
    share = wanted - low
    high = np.minimum(low + 1, values.shape[1] - 1)
    mixed = (1 - share) * values[:, low] + share * values[:, high]
    return np.asarray(np.where(share == 0, values[:, low], mixed), np.float64)
