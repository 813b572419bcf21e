"""What a run returns: tidy tables with their provenance, on disk as Parquet, JSON and safetensors.

Knows states and tables; knows nothing of models, hooks or how figures are drawn.
"""

from __future__ import annotations

import html
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from interp.analysis import MODE, Analysis, meaning
from interp.errors import BadInput, InterpError, unknown
from interp.registry import get, registered
from interp.state import Array, Examples, Leaf, Rows, State, leaf_class

if TYPE_CHECKING:
    from interp.corpus.output import CorpusTables

SCHEMA = 1
LAYOUT = "results.json"
CORPUS = "corpus.json"  # the manifest of a corpus run
EXPERIMENT = "experiment.json"
MARKS = (LAYOUT, EXPERIMENT)  # a folder without either was not written by this library
CONTROL = "control"  # the folder of what the untrained copy gave
INDEX = [
    "prompt",
    "position",
    "token",
    "token_id",
    "stack",
    "layer",
    "head",
    "special",
    "massive",
    "word",
]


@dataclass(eq=False)
class Result:
    """One analysis of one run.

    Attributes:
        name: as asked for.
        analysis: the analysis with its parameters.
        state: its merged state.
        tokens: one row per token as fed: `prompt`, `position`, `token`, `token_id`, `special`,
            labels.
        strings: text of the token ids that occur in token columns and examples.
        notes: caveats that apply to this table.
        model: name of the model, for titles; `Results` fills it in from its provenance.
        control: the same analysis of the same prompts on an untrained copy of the model, if the
            run was asked for it; `Results` fills it in.
    """

    name: str
    analysis: Analysis
    state: State
    tokens: pd.DataFrame
    strings: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    _frame: pd.DataFrame | None = None
    model: str = ""
    control: Result | None = None

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The tidy table: index columns, labels, then the value columns of the analysis."""
        if self._frame is not None:
            return self._frame
        table = self.analysis.table(self.state)
        if table.columns.empty:  # nothing was observed
            values = [c for c in self.analysis.columns if "*" not in c]
            table = pd.DataFrame(columns=["prompt", "position", "layer", *values])
        for column in (*self.analysis.token_columns, MODE):
            if column in table:
                table[column] = table[column].map(self.strings)
        return _with_tokens(table, self.tokens)

    @property
    def columns(self) -> Mapping[str, str]:
        """Meaning and unit of every value column of this table."""
        found = {str(c): meaning(self.analysis.columns, str(c)) for c in self.frame}
        return {c: doc for c, doc in found.items() if doc is not None}

    @property
    def values(self) -> list[str]:
        """The numeric value columns."""
        known = {*INDEX, "call", *self.labels, *self.analysis.keys}
        numeric = pd.api.types.is_numeric_dtype
        return [str(c) for c in self.frame if c not in known and numeric(self.frame[c])]

    @property
    def labels(self) -> list[str]:
        """Columns that came with the prompts."""
        fixed = {*INDEX, "call"}
        return [str(c) for c in self.tokens if c not in fixed and c in self.frame]

    def leaves(self, name: str) -> dict[tuple[str, int], Leaf]:
        """A leaf by its name, for every (stack, layer)."""
        return {key: leaves[name] for key, leaves in self.state.items() if name in leaves}

    def examples(self, name: str) -> dict[tuple[str, int], dict[int, Array]]:
        """Whole arrays kept for a few prompts: (stack, layer) -> prompt -> array."""
        found = self.leaves(name)
        return {k: leaf.items for k, leaf in found.items() if isinstance(leaf, Examples)}

    def summary(
        self, by: str | Sequence[str] = ("layer",), *, special: bool = False
    ) -> pd.DataFrame:
        """Mean, standard deviation, count and number of undefined values per group.

        With a control, its mean stands beside as `control`. Special tokens are left out unless
        `special`. Raises `UnknownName` for a column that is not there.
        """
        keys = [by] if isinstance(by, str) else list(by)
        for key in keys:
            if key not in self.frame:
                raise unknown("column", key, self.frame.columns)
        keys = [k for k in ("stack",) if k in self.frame and k not in keys] + keys
        frame = self.frame
        if "special" in frame and not special:
            frame = frame[~frame["special"].astype(bool)]
        values = [c for c in self.values if c not in keys]
        long = frame.melt(id_vars=keys, value_vars=values, var_name="value", value_name="x")
        groups = long.astype({"x": float}).groupby([*keys, "value"], sort=True, observed=True)["x"]
        out = groups.agg(mean="mean", std="std", n="count", rows="size").reset_index()
        out["undefined"] = out.pop("rows") - out["n"]
        if self.control is None:
            return out
        beside = self.control.summary(keys, special=special).rename(columns={"mean": "control"})
        return out.merge(beside[[*keys, "value", "control"]], on=[*keys, "value"], how="left")

    def plot(self, value: str | Sequence[str] | None = None, **options: Any) -> Any:
        """The first declared figure, or the one that shows `value` (or several); by plotly.

        Options: `by`, a label column (or several) with a line per group; `prompt`, for figures of
        one prompt; `special`, to keep special tokens.
        """
        from interp.render.figures import result_figure

        return result_figure(self, value, **options)

    def __repr__(self) -> str:
        columns = ", ".join(map(str, self.frame))
        head = f"<Result {self.name!r}: {len(self.frame)} rows, columns {columns}>"
        return "\n".join([head, *(f"note: {n}" for n in self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(n)}</p>" for n in self.notes)
        table = self.frame.head(10).to_html(escape=True)
        return f"<b>{html.escape(self.name)}</b>, {len(self.frame)} rows{notes}{table}"


def _with_tokens(table: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """Join the token table and put the index columns first."""
    on = [c for c in ("stack", "prompt", "position") if c in table and c in tokens]
    if {"prompt", "position"} <= set(on):
        table = table.merge(tokens, on=on, how="left", sort=False)
    first = [c for c in INDEX if c in table]
    labels = [c for c in tokens if c in table and c not in first]
    rest = [c for c in table if c not in first and c not in labels]
    return table[[*first, *labels, *rest]]


class Results(Mapping[str, Result]):
    """The results of one run by analysis name, with provenance.

    Attributes:
        provenance: what they are of, as JSON values.
        control: the results of the same run on an untrained copy of the model, or None.
    """

    def __init__(
        self,
        results: Iterable[Result],
        provenance: Mapping[str, Any],
        control: Results | None = None,
    ) -> None:
        self._results = {r.name: r for r in results}
        self.provenance: dict[str, Any] = dict(provenance)
        self.control = control
        for name, result in self._results.items():
            result.control = control.get(name) if control is not None else None
        for result in self._results.values():
            result.model = result.model or str(self.provenance.get("model", {}).get("name", ""))

    def __getitem__(self, name: str) -> Result:
        if name not in self._results:
            raise unknown("result", name, self._results)
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    @property
    def tokens(self) -> pd.DataFrame:
        """The token table of the run: what was fed, with labels."""
        return next(iter(self._results.values())).tokens

    def __repr__(self) -> str:
        rows = "\n".join(f"  {name}: {len(r.frame)} rows" for name, r in self.items())
        return f"<Results of {self.provenance.get('model', {}).get('name', '?')}\n{rows}>"

    def report(self, path: str | Path = "report.html", **options: Any) -> Path:
        """Write one self-contained HTML file that opens without a network; returns its path.

        Options: `title`; `special`, to keep special tokens in the means of figures; `overwrite`.
        """
        from interp.render.report import write_report

        return write_report(self, Path(path), **options)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write everything into `folder` (created); returns it.

        The folder appears whole or not at all. Raises `BadInput` if it exists and is not empty,
        unless `overwrite`.
        """
        folder = Path(folder)
        with whole_folder(folder, overwrite=overwrite) as temporary:
            self._write(temporary)
        return folder

    def _write(self, folder: Path) -> None:
        to_parquet(self.tokens, folder / "tokens.parquet")
        listing = {}
        for name, result in self.items():
            to_parquet(result.frame, folder / f"{name}.parquet")
            save_state(result.state, folder / f"{name}.safetensors")
            kind = type(result.analysis)
            listing[name] = {
                "class": f"{kind.__module__}:{kind.__qualname__}",
                "parameters": result.analysis.parameters(),
                "columns": dict(result.columns),
                "notes": list(result.notes),
                "strings": {str(k): v for k, v in result.strings.items()},
            }
        document = {"schema": SCHEMA, "provenance": self.provenance, "analyses": listing}
        text = json.dumps(document, indent=1, ensure_ascii=False, default=json_value)
        (folder / LAYOUT).write_text(text, encoding="utf-8")
        if self.control is not None:
            (folder / CONTROL).mkdir()
            self.control._write(folder / CONTROL)


@contextmanager
def whole_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which appears whole under its name at the end, or not at all.

    Raises `BadInput` if it exists and is not empty, unless `overwrite`.
    """
    refuse_existing(folder, overwrite=overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        yield Path(temporary)
        if folder.exists():
            shutil.rmtree(folder)
        Path(temporary).rename(folder)
        Path(temporary).mkdir()  # what the context manager removes
    folder.chmod(0o755)


def refuse_existing(path: Path, *, overwrite: bool = False) -> None:
    """Raise `BadInput` if an output path is taken: a file, or a folder with something in it."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() and not overwrite:
        what = "folder" if path.is_dir() else "file"
        raise BadInput(
            f"output {what} {str(path)!r} exists; choose another or allow it to be replaced "
            "(overwrite=True, --overwrite)"
        )
    if path.is_dir() and overwrite and not any((path / name).exists() for name in MARKS):
        raise BadInput(
            f"refusing to replace folder {str(path)!r}: it holds no results of this library"
        )


def json_value(value: Any) -> Any:
    """What JSON has no type for, as something that it has one for."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


def to_parquet(frame: pd.DataFrame, path: Path) -> None:
    """Object columns of mixed types become text, which Parquet can hold; missing stays missing."""
    out = frame.copy(deep=False)
    for column in [c for c in out if out[c].dtype == object]:
        there = out[column].notna()
        if len({type(v) for v in out[column][there]}) > 1:
            cells = zip(out[column], there, strict=True)
            out[column] = [str(v) if known else None for v, known in cells]
    out.to_parquet(path, index=False)


_TEXT = ":text"


def _part(name: str, array: Array) -> str:
    return name + _TEXT if array.dtype.kind == "U" else name


def _storable(array: Array) -> Array:
    """safetensors has no text: strings are kept as the bytes of their JSON."""
    if array.dtype.kind == "U":
        return np.frombuffer(json.dumps(array.tolist()).encode(), dtype=np.uint8)
    return np.asarray(array, order="C")  # ascontiguousarray would turn scalars into rows


def load(folder: str | Path) -> Results | CorpusTables:
    """Read what `Results.save` or a corpus run wrote.

    Returns `Results`; for a corpus run that kept a row per token `CorpusTables`, which load
    nothing until asked.
    Raises `BadInput` if the folder holds no results, results of a newer schema, or a run that is
    not finished; `InterpError` if a file of it is missing or damaged.
    """
    folder = Path(folder)
    if (folder / CORPUS).is_file():
        from interp.corpus.output import open_run

        return open_run(folder)
    return load_results(folder)


def load_results(folder: Path) -> Results:
    """Read what `Results.save` wrote; raises as `load` does."""
    layout = folder / LAYOUT
    if not layout.is_file():
        raise BadInput(f"{str(folder)!r} holds no results (no {LAYOUT} in it)")
    try:
        document = json.loads(layout.read_text(encoding="utf-8"))
        if document["schema"] > SCHEMA:
            raise BadInput(
                f"{str(folder)!r} was written by a newer version (schema {document['schema']}, "
                f"this one reads up to {SCHEMA})"
            )
        tokens = pd.read_parquet(folder / "tokens.parquet")
        results = [_load_one(folder, n, about, tokens) for n, about in document["analyses"].items()]
    except InterpError:
        raise
    except Exception as error:
        raise InterpError(
            f"results in {str(folder)!r} are damaged: {type(error).__name__}: {error}"
        ) from error
    beside = control_of(folder)
    control = load_results(beside) if beside else None
    return Results(results, document["provenance"], control)


def control_of(folder: Path) -> Path | None:
    """The folder of what the untrained copy gave, None where the run had no control.

    Raises `InterpError` for a link that leads nowhere or back to where it is, which would be
    followed for as long as the system allows, and for a control that has one of its own.
    """
    inside = folder / CONTROL
    remedy = "remove it, or put the saved results of the untrained copy there"
    if inside.is_symlink() and not inside.exists():
        raise InterpError(f"{str(inside)!r} is a link that leads nowhere; {remedy}")
    if not inside.is_dir():
        return None
    if folder.resolve().is_relative_to(inside.resolve()):
        where = str(inside.resolve())
        raise InterpError(f"{str(inside)!r} is a link to {where!r}, which holds it; {remedy}")
    if (inside / CONTROL).is_dir() or (inside / CONTROL).is_symlink():
        raise InterpError(f"{str(inside)!r} is a control and has one of its own; {remedy}")
    return inside


def _load_one(folder: Path, name: str, about: Mapping[str, Any], tokens: pd.DataFrame) -> Result:
    return Result(
        name,
        analysis_class(about["class"]).restore(about["parameters"]),
        load_state(folder / f"{name}.safetensors"),
        tokens,
        {int(k): v for k, v in about["strings"].items()},
        tuple(about["notes"]),
        pd.read_parquet(folder / f"{name}.parquet"),
    )


def analysis_class(path: str) -> type[Analysis]:
    """The class behind `module:name`: registered, or imported already.

    A file must not be able to have any module imported, so nothing else is.
    """
    for name, entries in registered().items():
        if any(entry.value == path for entry in entries):
            return get(name)
    module, _, qualname = path.partition(":")
    kind: Any = sys.modules.get(module)
    for part in qualname.split("."):
        kind = getattr(kind, part, None)
    if not (isinstance(kind, type) and issubclass(kind, Analysis)):
        raise InterpError(
            f"the analysis {path!r} of these results is not registered here; "
            "install or import the package it comes from, then load again"
        )
    return kind


def save_state(state: State, path: Path) -> bool:
    """Write every leaf but rows, which are a table, to safetensors; false if there is none."""
    from safetensors.numpy import save_file

    arrays = {
        f"{stack}/{layer}/{leaf_name}/{type(leaf).__name__}/{_part(part, array)}": _storable(array)
        for (stack, layer), leaves in state.items()
        for leaf_name, leaf in leaves.items()
        if not isinstance(leaf, Rows)
        for part, array in leaf.arrays().items()
    }
    if arrays:
        save_file(arrays, path)
    return bool(arrays)


def load_state(path: Path) -> State:
    """Read what `save_state` wrote; nothing where there is no file."""
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
