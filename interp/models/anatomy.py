"""Facts about a model: hooks of its stream, sites that fire, and what was verified.

Only facts and what follows from them: `wire` turns analyses into jobs, or refuses by name what
this model cannot serve. The measuring is done in `interp.models.probe`.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from interp.contract.analysis import Analysis
from interp.contract.jobs import Key, ObserveCall, Wiring
from interp.contract.sites import SITES
from interp.errors import BadInput, Unsupported
from interp.models.layout import Stack
from interp.models.readout import Readout
from interp.models.tested_versions import named, untested

TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 6e-2,
}
"""Largest relative error that still counts as equal, by the model's dtype."""
MASSIVE = 5.0
"""A first token with so many times the norm of the others is massive: its squared norm is that of
25 ordinary tokens, more than a sentence has, so that means and CKA are about it alone. Measured on
trained models: 1.3 to 1.7 where it is ordinary, 150 where it is massive."""


def angle_floor(dtype: torch.dtype) -> float:
    """Angle in degrees between a stream and itself after rounding to `dtype`, two states apart.

    Rounding moves each coordinate by up to ε/2 of its size; uniform errors give ε/√12 of the
    vector's length, and √2 of that between two rounded states. An estimate, not a bound.
    """
    eps = torch.finfo(dtype).eps
    return math.degrees(eps / 12**0.5 * 2**0.5)


@dataclass(frozen=True)
class StackAnatomy:
    """Measurements on one list of blocks.

    Attributes:
        stack: its place on the bridge.
        layout: "sequential", "parallel", "post-norm", "mixer", "hybrid", … in words.
        boundaries: hook name of each of the n_blocks + 1 states.
        fires: how often a block runs in one pass (more than 1: looped).
        sites: hook name per block of every site that fired, None where it did not.
        shapes: shape of each site on the probe.
        terms: hook name of each additive term, per block.
        closing: relative error of x_l + Σ terms = x_{l+1}, per block; NaN without terms.
        closes: whether every block closes within the tolerance.
        row_sum_error: largest |1 − Σ pattern| over rows, NaN without pattern.
        scores_pre_softmax: whether softmax(scores) gives the pattern; None without scores.
        problems: why the stream of this stack cannot be read; empty if it can.
        first_token: norm of the first token, an ordinary one, over the median of the others, at
            the state where it is largest; NaN where it was not measured.
        bos_token: the same where the first token is BOS; NaN where the model knows none.
        multiple: the model itself pads the states of this stack behind the prompt, to a multiple
            of so many columns, which are cut off; 1 where it adds none.
    """

    stack: Stack
    layout: str
    boundaries: tuple[str, ...]
    fires: int
    sites: Mapping[str, tuple[str | None, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    terms: tuple[Mapping[str, str], ...]
    closing: tuple[float, ...]
    closes: bool
    row_sum_error: float
    scores_pre_softmax: bool | None
    problems: tuple[str, ...] = ()
    first_token: float = math.nan
    bos_token: float = math.nan
    multiple: int = 1

    @property
    def name(self) -> str:
        return self.stack.name

    @property
    def massive_first(self) -> bool:
        """True if an ordinary token is massive because it is the first one."""
        return self.first_token > MASSIVE

    @property
    def n_blocks(self) -> int:
        return self.stack.n_blocks


@dataclass(frozen=True)
class Positions:
    """Dependence of the position encoding on the longest prompt of a pass.

    Attributes:
        switch: longest prompt, in tokens, that is encoded as short ones are; None if every length
            up to the context's is.
        grows: whether beyond that every length has an encoding of its own, which depends on the
            passes before as well.
    """

    switch: int | None = None
    grows: bool = False

    def beyond(self, length: int) -> bool:
        """True if a prompt of `length` tokens changes how the others of its pass are encoded."""
        return self.switch is not None and length > self.switch

    def fact(self) -> str:
        """In words, for the table."""
        if self.switch is None:
            return "the same in batches with prompts of any length"
        how = "with every length" if self.grows else "once"
        consequence = "are refused" if self.grows else "are never in one batch with shorter ones"
        return f"change {how} beyond {self.switch:,} tokens: longer prompts {consequence}"


@dataclass(frozen=True)
class Padding:
    """Relative difference of block outputs at real tokens, padded against unpadded.

    None: not measured. `right` and `left` are with an attention mask.
    """

    right: float | None
    left: float | None
    tolerance: float

    def fine(self, side: str) -> bool:
        """True if a batch padded on `side` gives what single prompts give."""
        error = self.right if side == "right" else self.left
        return error is not None and error <= self.tolerance


@dataclass(frozen=True)
class Continuation:
    """Relative difference of block outputs between a pass that continues a KV cache and the whole.

    `one` is with one new token, as in generation, `several` with more. None: not measured, and
    `reason` explains it.
    """

    one: float | None
    several: float | None
    tolerance: float
    reason: str = ""

    def broken(self, new_tokens: int) -> float | None:
        """The difference of a pass with so many new tokens if it is no rounding, else None."""
        error = self.one if new_tokens == 1 else self.several
        # Not "error > tolerance": NaN is broken too.
        return None if error is None or error <= self.tolerance else error

    def fact(self) -> str:
        """Both measurements in words."""
        if self.one is None and self.several is None:
            return f"not measured ({self.reason})"
        parts = []
        for name, new, error in (("one new token", 1, self.one), ("several", 2, self.several)):
            if error is not None:
                verdict = "CHANGES the stream" if self.broken(new) is not None else "equals it"
                parts.append(f"{name}: {verdict} ({error:.1g})")
        return ", ".join(parts)


@dataclass(frozen=True)
class Anatomy:
    """Facts about one model, measured on a short probe. Printed as a table.

    Attributes:
        model: the name it was loaded under.
        architecture: its class.
        stacks: one entry per list of blocks.
        readout: the verified path to the logits, or None.
        readout_tried: each candidate path and its identity error.
        prepends_bos: whether text gets a BOS token.
        padding: what padding does.
        positions: how their encoding depends on the longest prompt of a pass.
        continuation: whether a pass that continues a KV cache gives what the whole pass gives.
        basis: "raw" or "compatibility mode".
        dtype: of the stream.
        tolerance: errors below count as equal.
        causal: whether later tokens leave earlier ones untouched.
        has_logits: whether a pass gives logits at every position.
        untested: packages installed in another version than the tested one, and both versions.
        rounded: number of weight tensors of each type of a few bits that they were stored in.
    """

    model: str
    architecture: str
    stacks: tuple[StackAnatomy, ...]
    readout: Readout | None
    readout_stack: str
    readout_tried: Mapping[str, float]
    prepends_bos: bool
    padding: Padding
    basis: str
    dtype: torch.dtype
    tolerance: float
    causal: bool
    d_model: int
    d_vocab: int
    n_ctx: int | None
    has_logits: bool = True
    positions: Positions = Positions()
    continuation: Continuation = Continuation(None, None, 0.0, "no model")
    untested: Mapping[str, str] = field(default_factory=untested)
    rounded: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def wire(self, analyses: Sequence[Analysis]) -> Wiring:
        """Jobs and hook names for these analyses; raises `Unsupported` by name."""
        jobs: list[ObserveCall] = []
        for analysis in analyses:
            self._refuse_dims(analysis)
            analysis.check_parameters(self)
            if analysis.scope != "weights":
                jobs.extend(self._jobs(analysis))
        sources: dict[Key, str] = {}
        for job in jobs:
            for key in job.needs:
                name = self.source(key)
                if name is not None:
                    sources[key] = name
        multiples = {s.name: s.multiple for s in self.stacks if s.multiple > 1}
        wiring = Wiring(
            sources,
            tuple(jobs),
            self.readout,
            weights=self.weights,
            multiples=multiples,
            tolerance=self.tolerance,
        )
        if not wiring.needs_logits or self.readout is None:
            return wiring
        stack = next(s for s in self.stacks if s.name == self.readout_stack)
        # Watched although no analysis may read it: `logits_to_keep` leaves logits to be read out
        # from it.
        final = Key.state(stack.name, stack.n_blocks)
        return replace(wiring, final=final, sources={**sources, final: stack.boundaries[-1]})

    def apart(self, lengths: Iterable[int]) -> Callable[[int], bool] | None:
        """Predicate of prompt lengths that are batched apart from the others; None if none is.

        Raises `Unsupported` for prompts that are encoded by what ran before them.
        """
        if self.positions.switch is None:
            return None
        longest = max(lengths, default=0)
        if self.positions.grows and self.positions.beyond(longest):
            raise Unsupported(
                f"a prompt has {longest} tokens; beyond {self.positions.switch} the positions of "
                f"{self.model} are encoded by the longest prompt that ran before (dynamic NTK), so "
                "that its stream is no fixed thing; shorten the prompts"
            )
        return self.positions.beyond

    def refusal(self, analysis: Analysis) -> str | None:
        """Reason why this analysis cannot run here, or None."""
        try:
            self.wire([analysis])
        except Unsupported as refused:
            return str(refused)
        return None

    def _refuse_dims(self, analysis: Analysis) -> None:
        """Raises where an analysis is to do without dimensions that it has not, or needs."""
        dims, name = analysis.without_dims, analysis.name()
        wrong = [i for i in dims if not 0 <= i < self.d_model]
        if wrong:
            raise BadInput(
                f"{name} without_dims={tuple(dims)}: the stream of {self.model} has the "
                f"dimensions 0 … {self.d_model - 1}, not {wrong[0]}"
            )
        whole = [s for s in analysis.wanted() if "d_model" not in SITES[s].axes.split()]
        if analysis.scope == "weights":
            whole = ["the weights"]
        if dims and whole:
            raise Unsupported(
                f"analysis {name!r} cannot leave out dimensions of the stream (without_dims="
                f"{tuple(dims)}): it reads {', '.join(whole)}, which the model made from all of "
                "them; what reads the stream alone can, such as 'rotation' or 'spectrum'"
            )

    def _jobs(self, analysis: Analysis) -> list[ObserveCall]:
        wanted = analysis.wanted()
        self._require(analysis, "readout" in analysis.sites)
        jobs = []
        for stack in self.stacks:
            # The readout is verified on one stack; states of another never meet the vocabulary.
            if "readout" in wanted and stack.name != self.readout_stack:
                continue
            if analysis.scope == "model":
                jobs.append(self._model_job(analysis, stack))
            else:
                layers = [self._layer_job(analysis, stack, i) for i in range(stack.n_blocks)]
                jobs.extend(job for job in layers if job is not None)
        if not jobs:
            raise Unsupported(self._nothing_to_read(analysis))
        return jobs

    def _require(self, analysis: Analysis, needs_readout: bool) -> None:
        for stack in self.stacks:
            if stack.problems:
                raise Unsupported(
                    f"analysis {analysis.name()!r} cannot read the residual stream of "
                    f"{self.model}: {'; '.join(stack.problems)}"
                )
        if needs_readout and self.readout is None:
            tried = ", ".join(f"{p} ({e:.1g})" for p, e in self.readout_tried.items())
            raise Unsupported(
                f"analysis {analysis.name()!r} needs a readout, but no path from the stream of "
                f"{self.model} reproduces its logits (tried, with relative error: "
                f"{tried or 'none, the model has no unembedding'}); rotation and path_length "
                "work without one"
            )
        if "logits" in analysis.sites and not self.has_logits:
            raise Unsupported(
                f"analysis {analysis.name()!r} needs the logits of every position, which "
                f"{self.model} does not give; rotation and path_length work without them"
            )

    def _nothing_to_read(self, analysis: Analysis) -> str:
        missing = [s for s in analysis.sites if not self._has(s)]
        instead = "see interp.inspect(model) for what fires"
        if {"pattern", "scores"} & set(missing):
            instead = "rotation and path_length read the stream alone"
        if "result" in missing:
            instead = (
                "z times W_O of its heads, with b_O, does not add up to what attention adds to the "
                "stream there (a norm or a scale after W_O), or one of them is not to be seen"
            )
        if "terms" in missing:
            instead = "its blocks are not a sum of named terms; rotation reads the stream alone"
        return (
            f"analysis {analysis.name()!r} needs {', '.join(missing)}, which "
            f"{self.model} ({self.architecture}) does not have on any block; {instead}"
        )

    def _has(self, site: str) -> bool:
        if SITES[site].kind != "block":
            return True
        if site == "terms":
            return any(s.closes for s in self.stacks)
        return any(any(s.sites.get(site, ())) for s in self.stacks)

    def _model_job(self, analysis: Analysis, stack: StackAnatomy) -> ObserveCall:
        keys: dict[str, tuple[Key, ...]] = {}
        for site in analysis.wanted():
            if site == "stream":
                keys[site] = tuple(Key.state(stack.name, i) for i in range(stack.n_blocks + 1))
            elif site == "logits":
                keys[site] = (Key.logits(stack.name),)
            elif site != "readout":
                raise Unsupported(
                    f"analysis {analysis.name()!r} has scope 'model' and reads {site!r}; in that "
                    "scope there are 'stream', 'logits' and 'readout'"
                )
        return ObserveCall(analysis, stack.name, None, stack.n_blocks, keys)

    def _layer_job(self, analysis: Analysis, stack: StackAnatomy, layer: int) -> ObserveCall | None:
        sites: dict[str, tuple[Key, ...]] = {}
        terms: dict[str, Key] = {}
        for site in analysis.wanted():
            key = self._key(stack, site, layer)
            if key is not None:
                sites[site] = (key,)
            elif site == "terms" and stack.closes:
                terms = {t: Key.of_term(stack.name, t, layer) for t in stack.terms[layer]}
            elif site in analysis.sites and site != "readout":
                return None
        return ObserveCall(analysis, stack.name, layer, stack.n_blocks, sites, terms)

    def _key(self, stack: StackAnatomy, site: str, layer: int) -> Key | None:
        what = SITES[site]
        if what.kind == "state":
            ends = {"resid_initial": 0, "resid_final": stack.n_blocks}
            index = ends.get(site, layer + what.offset)
            return Key.state(stack.name, index) if index <= stack.n_blocks else None
        hooks = stack.sites.get(site)
        return Key(stack.name, site, layer) if hooks and hooks[layer] else None

    def source(self, key: Key) -> str | None:
        """Hook name from which a key is read; None for the logits."""
        if key.is_logits:
            return None
        stack = next(s for s in self.stacks if s.name == key.stack)
        if key.is_state:
            return stack.boundaries[key.index]
        if key.term is not None:
            return stack.terms[key.index][key.term]
        return stack.sites[key.point][key.index]

    def caveats(self) -> list[str]:
        """Sentences a reader of any table of this model must know."""
        notes = []
        if self.basis not in ("raw", "unknown"):
            notes.append(
                f"The weights are in another basis than raw ones ({self.basis}): compare this "
                "table with tables of the same basis only."
            )
        if self.dtype in (torch.bfloat16, torch.float16):
            notes.append(
                f"The model runs in {str(self.dtype).removeprefix('torch.')}: angles below about "
                f"{angle_floor(self.dtype):.2g}° are rounding."
            )
        if self.rounded:
            notes.append(
                f"The weights were stored in few bits ({_counted(self.rounded)}): the numbers are "
                "those of the rounded model. A difference or an angle below what the rounding does "
                "is the rounding's; a run on interp.models.rounded_copy(model, TYPE) shows how "
                "much that is for each result."
            )
        if self.positions.switch is not None:
            notes.append(
                f"The encoding of positions changes beyond {self.positions.switch:,} tokens, for "
                "every prompt of a pass: in passes of your own, short prompts beside longer ones "
                "are not what they are alone."
            )
        for stack in self.stacks:
            label = f" of the {stack.name}" if stack.name else ""
            if not stack.closes:
                notes.append(
                    f"The blocks{label} are not a sum of named terms ({_open_blocks(stack)}): "
                    "attention and MLP shares are left out."
                )
            if not any(stack.sites.get("resid_mid", ())):
                notes.append(
                    f"No true stream between attention and MLP{label} (layout {stack.layout}): "
                    "angles are per block only."
                )
            if stack.row_sum_error > 1e-2:
                notes.append(
                    f"Attention rows{label} do not sum to 1 (off by up to "
                    f"{stack.row_sum_error:.2g}): part of the attention goes elsewhere."
                )
        return notes

    def facts(self) -> list[tuple[str, str]]:
        """The table as (fact, value) rows of text."""
        dtype = str(self.dtype).removeprefix("torch.")
        rows = [
            ("model", f"{self.model} ({self.architecture})"),
            ("basis", self.basis),
            ("dtype", f"{dtype}, angle floor {angle_floor(self.dtype):.2g}°"),
            ("width, vocabulary, context", f"{self.d_model}, {self.d_vocab}, {self.n_ctx or '-'}"),
        ]
        for stack in self.stacks:
            rows += _stack_facts(stack)
        return [
            *rows,
            ("weights stored as", _counted(self.rounded) or "floats"),
            ("readout", self._readout_fact()),
            ("attention direction", "causal" if self.causal else "bidirectional"),
            ("positions", self.positions.fact()),
            ("BOS", "prepended to text" if self.prepends_bos else "not prepended"),
            ("right padding with mask", _verdict(self.padding.right, self.padding.tolerance)),
            ("left padding with mask", _verdict(self.padding.left, self.padding.tolerance)),
            ("pass that continues a KV cache", self.continuation.fact()),
            ("versions not tested", named(self.untested) or "none"),
        ]

    def _readout_fact(self) -> str:
        if self.readout is not None:
            return f"{self.readout.path} (relative error {self.readout.error:.1g})"
        tried = ", ".join(f"{path}: {error:.1g}" for path, error in self.readout_tried.items())
        return f"none reproduces the logits ({tried or 'nothing to try'})"

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values (the readout by its path)."""
        out = {
            k: v
            for k, v in vars(self).items()
            if k not in ("readout", "stacks", "padding", "continuation", "dtype", "weights")
        }
        out["readout_tried"] = dict(self.readout_tried)
        out["readout"] = self.readout and {"path": self.readout.path, "error": self.readout.error}
        out["stacks"] = [asdict(s) for s in self.stacks]
        out["padding"] = asdict(self.padding)
        out["continuation"] = asdict(self.continuation)
        out["dtype"] = str(self.dtype).removeprefix("torch.")
        out["positions"] = asdict(self.positions)
        out["angle_floor"] = angle_floor(self.dtype)
        return out

    def to_json(self) -> str:
        """JSON text of `to_dict`; NaN becomes null."""
        text: str = json.dumps(_no_nan(self.to_dict()), indent=2, allow_nan=False)
        return text

    def __repr__(self) -> str:
        width = max(len(fact) for fact, _ in self.facts())
        return "\n".join(f"{fact:<{width}}  {value}" for fact, value in self.facts())

    def _repr_html_(self) -> str:
        left = "style='text-align:left'"
        cells = "".join(
            f"<tr><th {left}>{html.escape(f)}</th><td {left}>{html.escape(v)}</td></tr>"
            for f, v in self.facts()
        )
        return f"<table>{cells}</table>"


def _counted(types: Mapping[str, int]) -> str:
    """Types of tensors with their numbers, as `Q4_1 of 210 tensors, Q8_0 of 1`."""
    first, *more = [f"{name} of {count:,}" for name, count in types.items()] or [""]
    return ", ".join([f"{first} tensors" if first else "", *more])


def _stack_facts(stack: StackAnatomy) -> list[tuple[str, str]]:
    prefix = f"{stack.name} " if stack.name else ""
    again = f", each run {stack.fires} times" if stack.fires > 1 else ""
    ends = f"{stack.boundaries[0]} … {stack.boundaries[-1]}" if stack.boundaries else "nowhere"
    fired = [
        f"{site} {list(stack.shapes.get(site, ()))}" for site, h in stack.sites.items() if any(h)
    ]
    rows = [
        (f"{prefix}blocks", f"{stack.n_blocks}, {stack.layout}{again}"),
        (f"{prefix}stream read at", ends),
        (f"{prefix}additive terms", _terms_fact(stack)),
        (f"{prefix}sites that fire", ", ".join(fired) or "none"),
    ]
    if not math.isnan(stack.row_sum_error):
        softmax = {
            True: "scores are what the softmax gets",
            False: "scores are not what the softmax gets",
            None: "no scores",
        }[stack.scores_pre_softmax]
        sums = f"sum to 1 within {stack.row_sum_error:.1g}; {softmax}"
        rows.append((f"{prefix}pattern rows", sums))
    if stack.multiple > 1:
        rows.append((f"{prefix}columns", _columns_fact(stack.multiple)))
    if not math.isnan(stack.first_token):
        rows.append((f"{prefix}first token", _first_token_fact(stack)))
    return rows + [(f"{prefix}problem", problem) for problem in stack.problems]


def _columns_fact(multiple: int) -> str:
    return (
        f"padded by the model to a multiple of {multiple:,}; those behind the prompt are cut off, "
        "which changes nothing before them"
    )


def _first_token_fact(stack: StackAnatomy) -> str:
    verdict = "massive" if stack.massive_first else "ordinary"
    bos = "" if math.isnan(stack.bos_token) else f"; of BOS {stack.bos_token:.3g} times"
    apart = "; summaries leave it out as they do BOS" if stack.massive_first else ""
    return (
        f"{verdict} without BOS: norm up to {stack.first_token:.3g} times the median of the "
        f"others{bos}{apart}"
    )


def _open_blocks(stack: StackAnatomy) -> str:
    """Size of the error that the decomposition leaves, in words."""
    bare = sum(not block for block in stack.terms)
    worst = max((e for e in stack.closing if not math.isnan(e)), default=math.nan)
    parts = [f"{bare} of {stack.n_blocks} blocks show none"] if bare else []
    if worst > 0:
        parts.append(f"relative error up to {worst:.2g}")
    return ", ".join(parts)


def _terms_fact(stack: StackAnatomy) -> str:
    named = {f"{t} ({h.split('.', 2)[-1]})" for block in stack.terms for t, h in block.items()}
    bare = sum(not block for block in stack.terms)
    worst = max((e for e in stack.closing if not math.isnan(e)), default=math.nan)
    verdict = "closes" if stack.closes else "does not close"
    none = f", {bare} blocks without any" if bare else ""
    return f"{', '.join(sorted(named)) or 'none'}: {verdict} (error {worst:.1g}{none})"


def _verdict(error: float | None, tolerance: float) -> str:
    if error is None:
        return "not measured"
    return (
        f"{'equals single prompts' if error <= tolerance else 'CHANGES the stream'} ({error:.1g})"
    )


def _no_nan(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return None
    if isinstance(value, Mapping):
        return {k: _no_nan(v) for k, v in value.items()}
    return [_no_nan(v) for v in value] if isinstance(value, list | tuple) else value
