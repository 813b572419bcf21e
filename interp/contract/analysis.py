"""The contract: `Batch`, what an analysis reads, and `Analysis`, what it is.

An analysis is a frozen dataclass whose fields are its parameters. It declares the sites it reads,
observes one batch at a time without keeping anything, and emits leaves
(`interp.contract.leaves`). Nothing here knows how hooks are attached or where prompts come from.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, get_args

import pandas as pd
from torch import Tensor

from interp._arrays import Array, to_numpy
from interp.contract.columns import by_name
from interp.contract.leaves import UNCLOSED, Leaf, Moments, PerHead, PerToken, State
from interp.contract.sites import SITES
from interp.contract.table import default_table
from interp.contract.tokens import Tokens
from interp.errors import BadInput, UnknownName, Unsupported, unknown
from interp.geometry import on_grid

Scope = Literal["layer", "model", "weights"]
Emission = Leaf | PerToken | PerHead


@dataclass(frozen=True, eq=False)
class Batch(Tokens):
    """Everything that one call of `observe` may look at: tokens, activations and their place.

    The tokens are the fields of `interp.contract.tokens.Tokens`: `tokens`, `mask`, `special`,
    `positions` and `targets` `[batch, pos]`, `ids [batch]`, `key_tokens` and `key_mask`
    `[batch, key]`.

    Attributes:
        sites: activations by site name; shapes as in `interp.contract.sites.SITES`.
        layer: block index; None in scopes "model" and "weights".
        n_layers: number of blocks in the stack.
        terms: additive terms of the block by their true names (`attn`, `mlp`, `mixer`, …), each
            `[batch, pos, d_model]`; empty where the decomposition does not close.
        before: what this analysis emitted for the previous block of the same batch; None at the
            first one. It makes running totals over depth possible without keeping anything.
        readout: path from residual vectors to vocabulary statistics, if the model has one.
        weights: matrices of this block by name, read with `weight`.
        model: the model itself, in scope "weights" only.
        tolerance: largest closing error of a step that is rounding (`open_steps`).
    """

    sites: Mapping[str, Tensor]
    layer: int | None = None
    n_layers: int = 1
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    before: Mapping[str, Emission] | None = None
    readout: Any = None
    model: Any = None
    weights: Any = None
    tolerance: float = math.inf

    def __getitem__(self, site: str) -> Tensor:
        try:
            return self.sites[site]
        except KeyError:
            raise self._lacks(site) from None

    def _lacks(self, site: str) -> Exception:
        """The error for a site that is not in this batch, with the reason."""
        if site == "terms":
            return BadInput("terms are read as `batch.terms`, a mapping by name")
        if site in SITES:
            seen = ", ".join(self.sites) or "none"
            return BadInput(
                f"no site {site!r} in this batch (here: {seen}): declare it in `sites` of the "
                "analysis; one of `optional` is read by batch.get(…), which is None where a block "
                "has none"
            )
        return unknown("site in this batch", site, self.sites)

    def get(self, site: str) -> Tensor | None:
        """The activation of an optional site, or None where this block has none."""
        return self.sites.get(site)

    def weight(self, name: str) -> Tensor:
        """A matrix of this block in scope "layer", such as `W_O [head, d_head, d_model]`.

        Names: `W_Q`, `W_K`, `W_V`, `W_O`, `W_in`, `W_out`, `W_gate` and their biases `b_…`. The
        unembedding is `readout.weight`. Raises `Unsupported` where the block has none.
        """
        if self.weights is None or self.layer is None:
            raise Unsupported(f"no weight {name!r} here: weights are those of a block of a model")
        found: Tensor = self.weights(self.layer, name)
        return found

    def running(self, name: str, step: Tensor) -> Tensor:
        """`step [batch, pos]` plus what `name` had come to at the previous block."""
        if self.before is None:
            return step
        earlier = self.before[name]
        if not isinstance(earlier, PerToken):
            raise BadInput(f"running({name!r}) adds up a PerToken, not {type(earlier).__name__}")
        # A model may lie on several devices.
        return earlier.values.to(step.device) + step

    def open_steps(self, error: Tensor) -> tuple[Tensor, dict[str, Leaf]]:
        """Where a step is not the sum of its terms, as where a hook changes the stream.

        Args:
            error: `[batch, pos]`, such as `interp.geometry.closing_error` of the terms.

        Returns a mask `[batch, pos]`, and a leaf to emit with the values: it becomes a note of the
        result that names the block. Without such a token there is none.
        """
        wrong = error > self.tolerance
        counted = wrong & self.mask
        return wrong, {UNCLOSED: Moments.of(error, counted)} if bool(counted.any()) else {}

    def to_grid(self, values: Tensor) -> Tensor:
        """Values of the real tokens, `[state, row, …]` in the order of `x[mask]`, on the rectangle.

        Returns `[state, batch, pos, …]`, zero under the mask.
        """
        return on_grid(values, self.mask)

    def direction(self) -> tuple[Tensor, Tensor]:
        """How the logit of each answer, or the difference of two, reads the stream.

        Returns `u [row, d_model]` and `c [row]` of the real tokens, by `Readout.direction`: u·x + c
        is the logit with the final norm frozen at the last state. Needs the sites `resid_final` and
        `readout`.
        """
        contrasts = None if self.contrasts is None else self.contrasts[self.mask]
        final, targets = self["resid_final"][self.mask], self.targets[self.mask]
        found: tuple[Tensor, Tensor] = self.readout.direction(final, targets, contrasts)
        return found

    @cached_property
    def real(self) -> tuple[Array, Array, tuple[Tensor, Tensor]]:
        """Prompt ids and positions of the real tokens, and their indices `(row, column)`."""
        row, column = self.mask.nonzero(as_tuple=True)
        # The ids may stay on the CPU while the mask lies where the activations are.
        prompt = to_numpy(self.ids[row.to(self.ids.device)])
        return prompt, to_numpy(self.positions[row, column]), (row, column)


PlotKind = Literal["line", "heatmap", "scatter", "trajectory", "attention"]


@dataclass(frozen=True)
class Plot:
    """Declares a figure; it is drawn centrally (`interp.render`).

    Attributes:
        kind: "line" (mean per layer with band), "heatmap" (layer × position of one prompt),
            "attention" (maps), "scatter" or "trajectory".
        values: columns to draw.
        title: what the figure shows.
        unit: unit of the value axis.
        if_null: what the figure would show if there were no effect; it stands below the figure in
            a report.
    """

    kind: PlotKind
    values: tuple[str, ...]
    title: str
    unit: str = ""
    if_null: str = ""

    def __new__(cls, *_: Any, **given: Any) -> Self:
        """Raises `UnknownName` for an argument that a figure does not take, with those it takes."""
        for name in given:
            if name not in cls.__dataclass_fields__:
                # Its name in earlier versions, which is like none of today's.
                new = "if_null" if name == "nothing" else ""
                is_now = f"; it is now {new!r}" if new else ""
                error = unknown("argument of Plot", name, cls.__dataclass_fields__)
                raise UnknownName(f"{error}{is_now}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Raises `UnknownName` for a kind that is not drawn, `BadInput` for values of no names."""
        if self.kind not in get_args(PlotKind):
            raise unknown("kind of figure", str(self.kind), get_args(PlotKind))
        if (seen := no_names(self.values)) is not None:
            raise BadInput(f"figure {self.title!r} draws {seen}")


@dataclass(frozen=True)
class Analysis(ABC):
    """Base of every analysis. Parameters are fields of a frozen dataclass, stored verbatim.

    Attributes:
        without_dims: dimensions of the stream that are left out, by number: they are 0 in all that
            the analysis reads. By keyword, for any analysis that reads nothing but the stream
            and the terms of its steps; a pass itself stays as it is.

    Class attributes:
        sites: what it reads, from `interp.contract.sites.SITES`.
        optional: sites it uses where the model has them.
        scope: "layer": `observe` is called once per block and the framework adds `layer`;
            "model": once per batch, with all boundary states stacked in site "stream";
            "weights": once, with `batch.model`, without prompts.
        columns: every value column of the table and what it means, with its unit.
        keys: columns of the table that identify a row, in addition to the usual index.
        token_columns: columns that hold token ids and are shown as text.
        plots: the figures to draw, most important first.
        renamed: names of columns by the names that earlier versions saved them under.
        ranges: least and largest possible value of a column, by its name or a pattern, with
            `-math.inf` or `math.inf` for an open end: (0, 1) of a share, (0, math.inf) of a norm.
            Intervals of its means stay in it; `check_analysis` finds values outside.
        contrasts: whether it compares two answers, so that `against=` has to be given.
        least: smallest allowed value of a parameter, by its name, such as 1 of a count. A smaller
            one is refused when the analysis is made, before a model is loaded.
    """

    sites: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()
    scope: ClassVar[Scope] = "layer"
    columns: ClassVar[Mapping[str, str]] = {}
    keys: ClassVar[tuple[str, ...]] = ()
    token_columns: ClassVar[tuple[str, ...]] = ()
    plots: ClassVar[tuple[Plot, ...]] = ()
    renamed: ClassVar[Mapping[str, str]] = {}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {}
    contrasts: ClassVar[bool] = False
    least: ClassVar[Mapping[str, float]] = {}

    # Not in the repr, where it would stand in every one and nearly always say nothing.
    without_dims: tuple[int, ...] = field(default=(), kw_only=True, repr=False)

    def __post_init__(self) -> None:
        """Raises `BadInput` for a parameter below its `least` value; call it from your own."""
        for parameter, least in self.least.items():
            value = getattr(self, parameter)
            # Not "value < least": NaN is refused too.
            if value is not None and not value >= least:
                usual = next(f.default for f in fields(self) if f.name == parameter)
                raise BadInput(
                    f"{self.name()} with {parameter}={value!r}: allowed is {least:g} or more; "
                    f"{usual!r} is the default"
                )

    @abstractmethod
    def observe(self, batch: Batch) -> Mapping[str, Emission]:
        """Reads one batch and returns named leaves. Pure: no state in `self`, inputs untouched."""

    @classmethod
    def name(cls) -> str:
        """Name in snake case, as in the registry: `LogitLens` is `logit_lens`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def phantoms(cls) -> Iterable[Any]:
        """Trials (`interp.Trial`) on models of known geometry, for `interp.calibrate`."""
        return ()

    def parameters(self) -> dict[str, Any]:
        """The parameters by name, as given; `without_dims` where it leaves something out."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: v for k, v in given.items() if k != "without_dims" or v}

    @classmethod
    def restore(cls, parameters: Mapping[str, Any]) -> Self:
        """Builds from `parameters` that went through JSON, which has lists where tuples were."""
        return cls(**{name: _tuples(value) for name, value in parameters.items()})

    def check_parameters(self, anatomy: Any = None) -> None:  # noqa: B027  most refuse nothing
        """Raises `BadInput` where a parameter names what is not there, such as a file.

        It is asked before a model is loaded, and again with the anatomy of the model before its
        first pass. Results are read without it, because the file may be gone by then.
        """

    def table(self, state: State) -> pd.DataFrame:
        """Tidy table of the state: a data frame with one row per measurement, always returned.

        The state maps `(stack, layer)` to leaves by name; `layer` is -1 in scopes "model" and
        "weights" where a leaf is of no layer. A `table` of your own is called for three kinds of
        run, and has to handle each:

        - a row per token (`keep="tokens"`): what was a `PerToken` or `PerHead` is a leaf of rows;
        - a summary (`keep="summary"`, and a corpus): the same names hold moments of groups, and
          there are no rows, so a table that reads columns of rows must let this one pass;
        - no batch yet, or none with real tokens: the state is empty.

        Begin with `table = super().table(state)`, which makes the right rows of each, and add
        columns where those that they are made of are there (`if "drift" in table:`).
        See `default_table` for which leaves it knows.
        """
        return default_table(state)

    @classmethod
    def depth(cls) -> Literal["block", "state"]:
        """What the column `layer` of its table counts: blocks, or the states at their boundaries.

        Block l leads from state l to state l + 1.
        """
        return "state" if cls.scope == "model" and "stream" in cls.sites else "block"

    @classmethod
    def wanted(cls) -> tuple[str, ...]:
        """Every site it reads, required ones first.

        Raises `UnknownName` for a site or scope that there is not, `BadInput` for text in place of
        a tuple.
        """
        if cls.scope not in get_args(Scope):
            what = f"scope (declared by analysis {cls.name()!r})"
            raise unknown(what, str(cls.scope), get_args(Scope))
        for name in ("sites", "optional"):
            if isinstance(getattr(cls, name), str):
                seen = no_names(getattr(cls, name))
                raise BadInput(f"analysis {cls.name()!r}: `{name}` is {seen}")
        for site in (*cls.sites, *cls.optional):
            if site not in SITES:
                raise unknown(f"site (declared by analysis {cls.name()!r})", site, SITES)
        return (*cls.sites, *cls.optional)


def no_names(declared: object) -> str | None:
    """What a declaration is, in words, where it is no tuple of names; None if it is one.

    >>> no_names("norm")
    "'norm', not a tuple of names: write ('norm',)"
    """
    if isinstance(declared, tuple) and all(isinstance(name, str) for name in declared):
        return None
    fix = f": write ({declared!r},)" if isinstance(declared, str) else " such as ('norm',)"
    return f"{declared!r}, not a tuple of names{fix}"


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def weights_batch(model: Any) -> Batch:
    """The batch of an analysis of scope "weights": the model and no tokens."""
    nothing: dict[str, Any] = {**Tokens.none().tensors()}
    return Batch(**nothing, sites={}, model=model)


def meaning(columns: Mapping[str, str], name: str) -> str | None:
    """Description of a column: under its name, else under a pattern; None if there is none.

    >>> meaning({"*_share": "share of a term; ratio"}, "mixer_share")
    'share of a term; ratio'
    """
    return by_name(columns, name)
