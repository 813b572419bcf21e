"""Results of a run: tidy tables with provenance, on disk as Parquet, JSON and safetensors.

Knows states and tables; knows nothing of models, hooks or the drawing of figures.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from interp._arrays import Array
from interp._files import LAYOUT, checksums, json_value, to_parquet, whole_folder, write_sealed
from interp.contract.analysis import Analysis
from interp.contract.columns import ATTACHED, INDEX, MODE
from interp.contract.emissions import failed_table, no_table
from interp.contract.leaves import Examples, Leaf, State, only
from interp.contract.not_measured import not_measured
from interp.errors import BadInput, ObserveError, unknown
from interp.render.look import Look, Palette
from interp.render.tokens import coded
from interp.runs.column_meanings import row_meanings, summary_meanings
from interp.runs.depth import merged_tables, with_states
from interp.runs.explorer.page import HEIGHT, Explorer, explorer_of
from interp.runs.report.drawings import result_figure
from interp.runs.report.report import write_report
from interp.runs.report.views import name_of
from interp.runs.storage import save_state
from interp.runs.written import GENERATION
from interp.stats.table import is_summary

SCHEMA = 1
CORPUS = "corpus.json"  # the manifest of a corpus run
_NUMBER = "\0number"  # no label has this name
TEXTS = ("given", "sample", "prompt", "text", "new_tokens", "stopped")
CONTROL = "control"  # the folder with the results of the untrained copy


@dataclass(eq=False)
class Result:
    """One analysis of one run.

    Attributes:
        name: as requested.
        analysis: the analysis with its parameters.
        state: its merged state.
        tokens: one row per token of the input: `prompt`, `position`, `token`, `token_id`,
            `special`, labels.
        strings: text of the token ids that occur in token columns and examples.
        notes: caveats that apply to this table.
        model: name of the model, for titles; `Results` fills it in from its provenance.
        control: the same analysis of the same prompts on an untrained copy of the model, if the
            run had a control; `Results` fills it in.
        basis: of the weights, "raw" or that of folded ones; `Results` fills it in. Tables of two
            bases are not comparable.
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
    basis: str = ""

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The tidy table: index columns, labels, then the value columns of the analysis."""
        if self._frame is not None:
            return self._frame
        table = self._own_table()
        if table.columns.empty:  # nothing was observed
            values = [c for c in self.analysis.columns if "*" not in c]
            table = pd.DataFrame(columns=["prompt", "position", "layer", *values])
        # Leaves hold ids, which merge and compress better than text; readers want the text.
        for column in (*self.analysis.token_columns, MODE):
            if column in table:
                table[column] = table[column].map(self.strings)
        return _with_tokens(table, self.tokens)

    def _own_table(self) -> pd.DataFrame:
        """What `table` of the analysis returns; raises `ObserveError` with the author's line."""
        try:
            table = self.analysis.table(self.state)
        except ObserveError:
            raise
        except Exception as error:
            raise failed_table(self.analysis, error) from error
        if not isinstance(table, pd.DataFrame):
            raise no_table(self.analysis, table)
        return table

    @property
    def states(self) -> pd.DataFrame:
        """The table with a column `state`, the one key of depth that all tables share.

        The column `layer` counts blocks 0 … L−1 in tables of blocks (`rotation`, `path_length`)
        and states 0 … L in tables of states (`logit_lens`), so that merging two tables on `layer`
        may pair block l with the state before it. `state` is the state that a row ends in: l + 1
        for block l, l for state l. Raises `BadInput` for a table without layers.
        """
        return with_states(self)

    @property
    def columns(self) -> Mapping[str, str]:
        """Meaning and unit of every column of this table, labels of the prompts left out.

        For a summary: of its statistics and group labels, then of the measures in its `value`.
        """
        kind = self.analysis
        if is_summary(self.frame):
            return summary_meanings(self.frame, kind.columns)
        return row_meanings(self.frame, kind.columns, self.labels, kind.token_columns)

    @property
    def values(self) -> list[str]:
        """The numeric value columns."""
        known = {*INDEX, *ATTACHED, *self.labels, *self.analysis.keys}
        numeric = pd.api.types.is_numeric_dtype
        return [str(c) for c in self.frame if c not in known and numeric(self.frame[c])]

    @property
    def labels(self) -> list[str]:
        """Columns that came with the prompts."""
        fixed = {*INDEX, *ATTACHED, *self.analysis.keys}
        return [str(c) for c in self.tokens if c not in fixed and c in self.frame]

    def leaves(self, name: str) -> dict[tuple[str, int], Leaf]:
        """A leaf by its name, for every (stack, layer)."""
        return {key: leaves[name] for key, leaves in self.state.items() if name in leaves}

    def examples(self, name: str) -> dict[tuple[str, int], dict[int, Array]]:
        """Whole arrays kept for a few prompts: (stack, layer) -> prompt -> array."""
        return {key: leaf.items for key, leaf in only(self.leaves(name), Examples).items()}

    def summary(
        self, by: str | Sequence[str] | None = None, *, special: bool = False
    ) -> pd.DataFrame:
        """Mean, standard deviation, count and number of undefined values per group.

        Groups are those of the columns `by`; by default layers, or all rows together in a table
        without layers. If the run had a control, its mean is the column `control`. Special tokens
        are left out unless `special`. Raises `UnknownName` for a column that is not there.
        """
        if by is None:
            by = [c for c in ("layer",) if c in self.frame]
        keys = [by] if isinstance(by, str) else list(by)
        for key in keys:
            if key not in self.frame:
                raise unknown("column", key, self.frame.columns)
        # Layer 3 of the encoder and of the decoder are not one group.
        keys = [k for k in ("stack",) if k in self.frame and k not in keys] + keys
        frame = self.frame
        if "special" in frame and not special:
            frame = frame[~frame["special"].astype(bool)]
        values = [c for c in self.values if c not in keys]
        long = frame.melt(id_vars=keys, value_vars=values, var_name="value", value_name=_NUMBER)
        long = long.astype({_NUMBER: float})
        groups = long.groupby([*keys, "value"], sort=True, observed=True)[_NUMBER]
        # pandas leaves NaN out of mean, std and count but not out of size: size − count is the
        # number of undefined values.
        out = groups.agg(["mean", "std", "count", "size"])
        out = out.set_axis(["mean", "std", "n", "undefined"], axis=1).reset_index()
        out["undefined"] -= out["n"]
        if self.control is None:
            return out
        control = self.control.summary(keys, special=special).rename(columns={"mean": "control"})
        return out.merge(control[[*keys, "value", "control"]], on=[*keys, "value"], how="left")

    def plot(
        self,
        value: str | Sequence[str] | None = None,
        *,
        by: str | Sequence[str] | None = None,
        prompt: int | None = None,
        special: bool = False,
        layer: int | None = None,
        heads: Sequence[Any] | None = None,
        score: str | Sequence[str] | None = None,
        width: int | None = None,
        height: int | None = None,
        title: str | None = None,
        palette: Palette = None,
        legend: bool = False,
    ) -> Any:
        """The first declared figure, or the one that shows `value` (or several); by plotly.

        Args:
            value: a declared value or any numeric column; several are drawn together.
            by: a label column, or several, with a line per group.
            prompt: which prompt, for figures of one prompt; by default the first that is kept.
            special: keep special tokens in means.
            layer: of attention maps: only this layer.
            heads: of attention maps: only these, as `(layer, head)`, or as numbers in `layer`.
            score: of attention maps: columns whose highest means choose the heads.
            width, height: of the whole figure in pixels; by default the width is the page's.
            title: plain text in place of the figure's own title.
            palette: colours `#RRGGBB` for the lines in their order, or by name
                (`{"target": "#CC0000"}`); for heatmaps and pictures of attention maps the name of
                a plotly colour scale, such as "Viridis".
            legend: also list lines, bands and controls in a legend.

        Returns a plotly figure, or for attention maps `AttentionMaps`, whose `save` writes .html,
        .png, .svg or .pdf. Raises `UnknownName` for a value, label, prompt, layer, head or line
        that is not there, `BadInput` for a size or colour that cannot be.
        """
        of_maps = {"layer": layer, "heads": heads, "score": score}
        return result_figure(
            self,
            value,
            by=by,
            prompt=prompt,
            special=special,
            look=Look(width, height, title, palette, legend),
            **{name: given for name, given in of_maps.items() if given is not None},
        )

    def __repr__(self) -> str:
        columns = ", ".join(map(str, self.frame))
        head = f"<Result {self.name!r}: {len(self.frame)} rows, columns {columns}>"
        return "\n".join([head, *(f"note: {n}" for n in self.said)])

    @property
    def said(self) -> tuple[str, ...]:
        """The notes that stand with the table: the basis of its weights, then its caveats."""
        return (f"Basis of the weights: {self.basis}.", *self.notes) if self.basis else self.notes

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{coded(n)}</p>" for n in self.said)
        table = self.frame.head(10).to_html(escape=True)
        return f"<b>{html.escape(self.name)}</b>, {len(self.frame)} rows{notes}{table}"


def _overview(result: Result) -> str:
    """A table row on a result, in HTML."""
    values = ", ".join(result.columns)
    notes = " ".join(result.notes)
    cells = (result.name, f"{len(result.frame):,}", values, notes)
    return f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"


def _with_tokens(table: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """The table joined with the tokens, index columns first."""
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
        provenance: model, prompts, parameters and versions, as JSON values.
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
            name = str(self.provenance.get("model", {}).get("name", ""))
            result.model = result.model or name_of(name)
            basis = self.provenance.get("model", {}).get("basis", "")
            result.basis = result.basis or str(basis)

    def __getitem__(self, name: str) -> Result:
        if name not in self._results:
            raise not_measured("result", name, self._results)
        return self._results[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._results)

    def __len__(self) -> int:
        return len(self._results)

    @property
    def tokens(self) -> pd.DataFrame:
        """The token table of the run: its input, with labels."""
        return next(iter(self._results.values())).tokens

    def merged(self, *names: str, how: str = "outer", heads: str | None = None) -> pd.DataFrame:
        """Several tables as one, a row per token and state; see `Result.states` for the key.

        A row of block l stands at the state that the block leads to, l + 1: what a table of blocks
        has of the state before the block is named `_before` (`norm_before` beside `norm_after` of
        `path_length`). Columns that two of them have are named `ANALYSIS_COLUMN`.
        `.attrs["columns"]` has the meaning of every column. Tables with a row per head are reduced
        to a row per block by `heads="mean"`, "sum", "max" or "min".

        State 0, which no block leads to, has values of tables of states only, and NaN of the
        others; `how="inner"` keeps only the rows that all tables have. `layers=` of a run counts
        blocks in tables of blocks and states in tables of states: where that leaves other states in
        one than in the other, a warning names the layers to run with.

        Raises `BadInput` for fewer than two names, another `how` or `heads`, and a table that has
        other rows: of heads without `heads`, of pairs, of weights or of a summary.
        """
        layers = self.provenance.get("kept", {}).get("layers")
        return merged_tables([self[name] for name in names], layers, how, heads)

    @property
    def texts(self) -> pd.DataFrame:
        """The texts of `interp.generate`, a row per prompt number: `given`, `sample`, `prompt` and
        `text` (what was given and what was written), `new_tokens`, and `stopped`, whether a stop
        token ended it.

        Raises `BadInput` for results of something else.
        """
        if GENERATION not in self.provenance:
            raise BadInput("these results are of no generation; interp.generate makes them")
        rows = self.provenance[GENERATION]["texts"]
        return pd.DataFrame(rows, columns=list(TEXTS))

    def __repr__(self) -> str:
        rows = "\n".join(f"  {name}: {len(r.frame)} rows" for name, r in self.items())
        return f"<Results of {self.provenance.get('model', {}).get('name', '?')}\n{rows}>"

    def _repr_html_(self) -> str:
        """Model, prompts and control, and a row per table with its size, columns and notes."""
        model, prompts = (self.provenance.get(k, {}) for k in ("model", "prompts"))
        facts = {
            "model": model.get("name", "?"),
            "basis": model.get("basis", ""),
            "prompts": f"{prompts.get('count', 0):,} from {prompts.get('source', '?')}",
            "control": self.provenance.get("control", "none"),
        }
        said = "".join(
            f"<li>{name}: {html.escape(str(value))}</li>" for name, value in facts.items() if value
        )
        heads = "".join(f"<th>{name}</th>" for name in ("table", "rows", "values", "notes"))
        rows = "".join(map(_overview, self.values()))
        return f"<b>Results</b><ul>{said}</ul><table><tr>{heads}</tr>{rows}</table>"

    def report(self, path: str | Path = "report.html", **options: Any) -> Path:
        """Write one self-contained HTML file that opens without a network; returns its path.

        Options: `title`; `special`, to keep special tokens in the means of figures; `overwrite`;
        `findings`, such as `[interp.calibrate(results)]`, that get a section each; `small`, for an
        explorer with rounded numbers and without those of the untrained copy.
        """
        return write_report(self, Path(path), **options)

    def explore(self, title: str | None = None, *, height: int = HEIGHT) -> Explorer:
        """The explorer: one page on which every number is found at its token and layer.

        In a notebook it shows itself in a frame of `height` pixels; `.save("explorer.html")` writes
        it as a file that opens without a network, `.widget()` gives it as an anywidget. Runs with
        more numbers than fit are shown by a sample of their prompts.
        Raises `BadInput` for results without tokens, such as those of weights alone.
        """
        return explorer_of(self, title, height=height)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> Path:
        """Write everything into `folder` (created); returns it.

        The folder appears whole or not at all. Raises `BadInput` if it exists and is not empty,
        unless `overwrite`.
        """
        folder = Path(folder)
        with whole_folder(folder, overwrite=overwrite) as temporary:
            self.write(temporary)
        return folder

    def write(self, folder: Path) -> None:
        """Write into an empty folder, with a checksum of every file; `save` survives crashes."""
        refuse_names(self, ("tokens", CONTROL))
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
        if self.control is not None:
            (folder / CONTROL).mkdir()
            self.control.write(folder / CONTROL)
        document = {"schema": SCHEMA, "provenance": self.provenance, "analyses": listing}
        # The listing last: it has the checksums of all other files.
        write_sealed(folder / LAYOUT, document | {"files": checksums(folder)}, json_value)


def refuse_names(names: Iterable[str], taken: Sequence[str]) -> None:
    """Raise `BadInput` for an analysis whose files would replace files of another kind."""
    for name in names:
        if name in taken:
            raise BadInput(
                f"the results of an analysis called {name!r} cannot be written: the folder has "
                f"other files under that name ({', '.join(taken)} are taken); rename its class"
            )


def refuse_newer(folder: Path, schema: int, known: int) -> None:
    """Raise `BadInput` for a folder whose layout this version does not know."""
    if schema > known:
        raise BadInput(
            f"{str(folder)!r} was written by a newer version (schema {schema}, this one reads up "
            f"to {known})"
        )
