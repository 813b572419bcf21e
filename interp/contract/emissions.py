"""The emissions of `observe`, judged before they become state, and the line of an error.

Knows shapes, names and tracebacks; knows nothing of models or of the laws that authors run.
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.contract.analysis import Analysis, Batch
from interp.contract.columns import INDEX_OF_ROWS, TOKEN_TABLE
from interp.contract.leaves import Leaf, PerHead, PerToken
from interp.errors import AlteredError, EmissionError, EmissionShapeError, ObserveError, Unsupported


def observed(analysis: Analysis, batch: Batch, *, on_copies: bool = False) -> Mapping[str, Any]:
    """What `observe` emits for a batch, checked, and its tensors found as they were.

    Args:
        on_copies: show the analysis copies and compare their values afterwards. The model's own
            activations then stay, and changes that torch does not count (by `.data` or through
            NumPy) are seen as well.

    Raises `AlteredError` where it changed one in place, and what `checked` raises.
    """
    shown = batch
    if on_copies:
        shown = _shown(batch, _copied)
    elif any(x.is_inference() for _, x in _read(batch)):
        shown = _shown(batch, _counted)
    before = {name: x._version for name, x in _read(shown)}

    def refuse_altered() -> None:
        own = dict(_read(batch)) if on_copies else {}
        for name, x in _read(shown):
            if x._version != before[name] or (on_copies and not _equal(x, own[name])):
                raise _altered(analysis, batch, name, spared=on_copies)

    try:
        emitted = analysis.observe(shown)
    except Exception:
        refuse_altered()  # what was changed before the exception stays changed
        raise
    refuse_altered()
    return checked(analysis, batch, emitted)


def _read(batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """The tensors that an analysis reads, by the names under which it does."""
    yield from batch.sites.items()
    yield from ((f"terms[{name!r}]", x) for name, x in batch.terms.items())
    yield from batch.tensors().items()


def _shown(batch: Batch, tensor: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with every tensor as another one; what stands under two names stays one."""
    made: dict[int, Tensor] = {}

    def all_of(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for x in given.values():
            if id(x) not in made:
                made[id(x)] = tensor(x)
        return {name: made[id(x)] for name, x in given.items()}

    tokens: dict[str, Any] = all_of(batch.tensors())
    return replace(batch, sites=all_of(batch.sites), terms=all_of(batch.terms), **tokens)


def _copied(x: Tensor) -> Tensor:
    with torch.inference_mode(False):  # torch counts no changes of inference tensors
        return x.clone()


def _counted(x: Tensor) -> Tensor:
    """The tensor, or another on the same memory if torch does not count the changes of this one."""
    if not x.is_inference():
        return x
    with torch.inference_mode(False):
        place = x.storage_offset(), x.size(), x.stride()
        return torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage(), *place)


def _equal(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())


def _altered(analysis: Analysis, batch: Batch, name: str, spared: bool) -> AlteredError:
    whose = (
        "a copy, so the pass itself is unharmed"
        if spared
        else "what the pass and other analyses read as well, so the pass is no longer the model's"
    )
    return AlteredError(
        f"{place(analysis, batch)}: `observe` changed {name!r} in place, which is {whose}; write "
        "x = x − … in place of x −= …",
        spared,
    )


def checked(analysis: Analysis, batch: Batch, emitted: Any) -> Mapping[str, Any]:
    """What `observe` returned, if it can become state.

    Raises `EmissionError` for anything but leaves by name, `EmissionShapeError` for values of
    another shape or name than a table can hold; both name analysis, layer, sites and shapes.
    """
    seen = foreign(emitted)
    if seen is not None:
        raise EmissionError(f"{place(analysis, batch)}: {seen}")
    for name, value in emitted.items():
        seen = _bad_name(name) or _bad_shape(value, batch, analysis.scope == "model")
        if seen is not None:
            raise EmissionShapeError(f"{place(analysis, batch)}: emits {name!r}{seen}")
    return dict(emitted)


def foreign(emitted: Any) -> str | None:
    """What is no mapping of leaves in `emitted`, in words; None if all of it is."""
    allowed = "return a dict of PerToken, PerHead or other leaves"
    if not isinstance(emitted, Mapping):
        return f"`observe` returned {type(emitted).__name__}, not a mapping; {allowed}"
    for name, value in emitted.items():
        if not isinstance(value, Leaf | PerToken | PerHead):
            wrap = f", PerToken(…) for one value per token; {allowed}"
            bare = isinstance(value, Tensor | np.ndarray)
            tensor = "" if isinstance(value, Tensor) else " as a tensor (torch.as_tensor)"
            shape = f" {tuple(value.shape)}, no leaf: wrap it{tensor}{wrap}" if bare else f"{wrap}"
            return f"emits {name!r} as {type(value).__name__}{shape}"
    return None


def _bad_name(name: object) -> str | None:
    if not isinstance(name, str) or not name or "/" in name:
        return ", which is no name: text without '/'"
    taken = name in (*INDEX_OF_ROWS, *TOKEN_TABLE)
    return ", a column that every table has" if taken else None


def _bad_shape(value: Any, batch: Batch, stacked: bool) -> str | None:
    if isinstance(value, Leaf):
        return None
    if not isinstance(value.values, Tensor) or value.values.is_complex():
        is_array = isinstance(value.values, np.ndarray | list | tuple)
        as_tensor = "; torch.as_tensor(…) makes one of it" if is_array else ""
        return f" with {type(value.values).__name__}, not a tensor of real numbers{as_tensor}"
    shape, (n, width) = tuple(value.values.shape), batch.mask.shape
    if isinstance(value, PerHead):
        fine, allowed = len(shape) == 3 and shape[::2] == (n, width), "[batch, head, pos]"
    else:
        fine, allowed = shape == (n, width), "[batch, pos]"
        if stacked:
            fine, allowed = fine or shape[-2:] == (n, width), "[batch, pos] or [layer, batch, pos]"
    return None if fine else f" with shape {shape}; allowed is {allowed}, here {(n, width)}"


def place(analysis: Analysis, batch: Batch) -> str:
    """Analysis, layer, sites and shapes of one call of `observe`, as the head of a message."""
    where = "" if batch.layer is None else f" at layer {batch.layer}"
    shapes = ", ".join(f"{site} {tuple(x.shape)}" for site, x in batch.sites.items())
    on = f" on {shapes}, mask {tuple(batch.mask.shape)}" if shapes else ""
    return f"analysis {analysis.name()!r} failed{where}{on}"


def failed(analysis: Analysis, batch: Batch, error: Exception) -> ObserveError:
    """The author's exception with the call that it came from and the author's own line."""
    # What a model lacks is no mistake of the author's code.
    line = "" if isinstance(error, Unsupported) else author_line(analysis, error)
    return ObserveError(f"{place(analysis, batch)}: {type(error).__name__}: {error}{line}")


def failed_table(analysis: Analysis, error: Exception, of: str = "") -> ObserveError:
    """The same for an exception of `table`, which was given the state of this kind of run."""
    line, given = author_line(analysis, error), f" on {of}" if of else ""
    return ObserveError(
        f"analysis {analysis.name()!r} failed in `table`{given}: {type(error).__name__}: "
        f"{error}{line}"
    )


def no_table(analysis: Analysis, returned: Any) -> ObserveError:
    """The error for a `table` that returned no data frame, with the place of its definition."""
    code = getattr(inspect.unwrap(type(analysis).table), "__code__", None)
    where = f" ({Path(code.co_filename).name}, line {code.co_firstlineno})" if code else ""
    return ObserveError(
        f"analysis {analysis.name()!r} failed in `table`{where}: it returned "
        f"{type(returned).__name__}, not a pandas DataFrame with a row per measurement"
    )


def author_line(analysis: Analysis, error: BaseException) -> str:
    """Deepest line of the author's own files, ` (file.py, line 12, in observe: code)`, or "".

    The author's files are those that `observe` and `table` stand in, so that the line is not one
    of torch or pandas.
    """
    own = _own_files(type(analysis))
    found = ""
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        code, number = trace.tb_frame.f_code, trace.tb_lineno
        if code.co_filename in own:
            file = code.co_filename
            text = linecache.getline(file, number, trace.tb_frame.f_globals).strip()
            said = f": {text}" if text else ""
            found = f" ({Path(file).name}, line {number}, in {code.co_name}{said})"
        trace = trace.tb_next
    return found


def _own_files(kind: type[Analysis]) -> set[str]:
    """Files with the definitions of `observe` and `table` in a class and its bases."""
    found = set()
    for owner in kind.__mro__:
        if owner is Analysis:
            continue
        for name in ("observe", "table"):
            method = vars(owner).get(name)
            # A decorator such as torch.no_grad() stands around the author's function.
            code = getattr(inspect.unwrap(method), "__code__", None) if callable(method) else None
            if code is not None:
                found.add(code.co_filename)
    return found
