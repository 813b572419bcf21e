"""Storage of the leaves of a state in safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from interp._arrays import Array
from interp.contract.leaves import State, leaf_class, without_rows

_TEXT = ":text"


def _part(name: str, array: Array) -> str:
    return name + _TEXT if array.dtype.kind == "U" else name


def _storable(array: Array) -> Array:
    """An array that safetensors can store: text, which it lacks, as the bytes of its JSON."""
    # JSON, not pickle: a results folder must be safe to load whoever made it.
    if array.dtype.kind == "U":
        return np.frombuffer(json.dumps(array.tolist()).encode(), dtype=np.uint8)
    return np.asarray(array, order="C")  # ascontiguousarray would turn scalars into rows


def save_state(state: State, path: Path) -> bool:
    """Write every leaf except rows, which are in the table; false if there is none."""
    from safetensors.numpy import save_file

    arrays = {
        f"{stack}/{layer}/{leaf_name}/{type(leaf).__name__}/{_part(part, array)}": _storable(array)
        for (stack, layer), leaves in without_rows(state).items()
        for leaf_name, leaf in leaves.items()
        for part, array in leaf.arrays().items()
    }
    if arrays:
        save_file(arrays, path)
    return bool(arrays)


def load_state(path: Path) -> State:
    """Read a file of `save_state`; an empty state if there is no file."""
    if not path.exists():
        return {}
    from safetensors.numpy import load_file

    grouped: dict[tuple[str, int, str, str], dict[str, Array]] = {}
    for key, array in load_file(path).items():
        stack, layer, leaf_name, kind, part = key.split("/")
        if part.endswith(_TEXT):
            part, array = part.removesuffix(_TEXT), _text_array(array)
        grouped.setdefault((stack, int(layer), leaf_name, kind), {})[part] = array
    state: State = {}
    for (stack, layer, leaf_name, kind), arrays in grouped.items():
        state.setdefault((stack, layer), {})[leaf_name] = leaf_class(kind).from_arrays(arrays)
    return state


def _text_array(stored: Array) -> Array:
    return np.asarray(json.loads(stored.tobytes()), dtype=str)
