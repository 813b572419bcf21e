"""Analyses and leaves with one planted fault each, and what `check_analysis` should say of it."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from analyses.rotation import Rotation
from interp.contract.analysis import Analysis, Plot
from interp.contract.leaves import (
    Count,
    Leaf,
    Moments,
    PerHead,
    PerToken,
    Sum,
    TopK,
)
from interp.geometry import angle, at_least_float32, norm


def real(batch, site="resid_post"):
    """Vectors of the real tokens, `[token, d_model]`, wide enough to compute with."""
    return at_least_float32(batch[site][batch.mask])


class Faulty(Analysis):
    """Base of the faults: whatever they emit is documented, so that another law is broken."""

    columns: ClassVar[Mapping[str, str]] = {"*": "a value"}


# ---- planted faults: leaves ------------------------------------------------------------------


class OneArray(Leaf):
    """A leaf of one array, to go wrong in one way each."""

    name = "total"

    def __init__(self, value):
        self.value = value

    def merge(self, other):
        return type(self)(self.value + other.value)

    def arrays(self):
        return {self.name: np.asarray(self.value)}

    @classmethod
    def from_arrays(cls, arrays):
        return cls(arrays[cls.name])


class Average(OneArray):
    """An average of averages."""

    def merge(self, other):
        return type(self)((self.value + other.value) / 2)


class Greedy(OneArray):
    """Adds into its own array."""

    def merge(self, other):
        self.value += other.value
        return self


class Arrivals(OneArray):
    """Values in the order in which they came."""

    def merge(self, other):
        return type(self)(np.concatenate([self.value, other.value]))


class Lossy(OneArray):
    """A mean whose count does not go to disk."""

    def __init__(self, value, n=1.0):
        super().__init__(value)
        self.n = n

    def merge(self, other):
        n = self.n + other.n
        return Lossy((self.value * self.n + other.value * other.n) / n, n)


class Callback(OneArray):
    """Holds a function."""

    def __init__(self, value):
        super().__init__(value)
        self.finish = lambda x: x


class OnTheGraph(OneArray):
    """Holds a tensor that wants gradients."""

    def __init__(self, value):
        super().__init__(value)
        self.tensor = torch.zeros(1, requires_grad=True)


class Objects(OneArray):
    """Gives an array of objects."""

    def arrays(self):
        return {"total": np.asarray([self.value, None], dtype=object)}

    @classmethod
    def from_arrays(cls, arrays):
        return cls(arrays["total"][0])


class Sorted(OneArray):
    """All values, in an order that nothing can upset."""

    def merge(self, other):
        return Sorted(np.sort(np.concatenate([self.value, other.value])))


class Highest(OneArray):
    """A vector of the prompt with the highest id: the activations themselves, not a copy."""

    def __init__(self, value, prompt=0):
        super().__init__(value)
        self.prompt = prompt

    def merge(self, other):
        return max(self, other, key=lambda leaf: leaf.prompt)

    def arrays(self):
        return {"total": self.value, "prompt": np.asarray(self.prompt)}

    @classmethod
    def from_arrays(cls, arrays):
        return cls(arrays["total"], int(arrays["prompt"]))


# ---- planted faults: analyses ----------------------------------------------------------------


class OneTable(Faulty):
    """Shows a number per layer, so that only the leaf is at fault."""

    sites = ("resid_post",)

    def table(self, state):
        layers = [layer for _, layer in sorted(state)]
        return pd.DataFrame({"layer": layers, "rows": len(layers)})


class TextSites(Faulty):
    sites = "resid_post"

    def observe(self, batch):
        return {}


class NoSuchSite(Faulty):
    sites = ("resid_prae",)

    def observe(self, batch):
        return {}


class BlockSiteOfThePass(Faulty):
    sites = ("stream", "pattern")
    scope = "model"

    def observe(self, batch):
        return {}


class ReadsNothing(Faulty):
    optional = ("resid_mid",)

    def observe(self, batch):
        return {}


class Undecorated(Rotation):
    k: int = 3


@dataclass(frozen=True)
class ListParameter(Rotation):
    layers: list = field(default_factory=lambda: [1, 2])


@dataclass(frozen=True)
class Doubled(Rotation):
    k: int = 3

    def __post_init__(self):
        object.__setattr__(self, "k", 2 * self.k)


@dataclass(frozen=True)
class NotJson(Rotation):
    k: complex = 1j


class Raises(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(batch["resid_post"] @ batch["resid_post"])}


class ReadsUndeclared(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(angle(batch["resid_pre"], batch["resid_post"]))}


class BareTensor(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": norm(batch["resid_post"])}


class NoDict(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return PerToken(norm(batch["resid_post"]))


class VectorPerToken(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(batch["resid_post"])}


class HeadsLast(Faulty):
    sites = ("z",)

    def observe(self, batch):
        return {"x": PerHead(norm(batch["z"]))}


class Slash(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"in/out": PerToken(norm(batch["resid_post"]))}


class TakenName(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"position": PerToken(norm(batch["resid_post"]))}


class NeedsOptional(Faulty):
    sites = ("resid_post",)
    optional = ("resid_mid",)

    def observe(self, batch):
        return {"x": PerToken(angle(batch["resid_mid"], batch["resid_post"]))}


class NeedsAttn(Faulty):
    sites = ("terms",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch.terms["attn"]))}


class SquarePattern(Faulty):
    sites = ("pattern",)

    def observe(self, batch):
        return {"self": PerHead(torch.einsum("bhqq->bhq", batch["pattern"]))}


class InPlace(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        batch["resid_post"].mul_(0.5)
        return {"x": PerToken(norm(batch["resid_post"]))}


class PadsTokens(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        batch.tokens[~batch.mask] = -1
        return {"x": PerToken(norm(batch["resid_post"]))}


class Remembers(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        seen = vars(self).get("seen", 0)
        object.__setattr__(self, "seen", seen + 1)
        return {"x": PerToken(norm(batch["resid_post"]))}


class RemembersInClass(Faulty):
    sites = ("resid_post",)
    seen: ClassVar[list] = []

    def observe(self, batch):
        self.seen.append(1)
        return {"x": PerToken(norm(batch["resid_post"]))}


class Clock(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        microseconds = time.perf_counter_ns() // 1000 % 2**24  # which float32 tells apart
        return {"x": PerToken(norm(batch["resid_post"]) + microseconds)}


class GlobalRandom(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]) + torch.rand(1))}


class RandomTable(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]))}

    def table(self, state):
        table = super().table(state)
        return table.assign(noise=np.random.rand(len(table)))  # noqa: NPY002


class DrawsInVain(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        random.random()
        return {"x": PerToken(norm(batch["resid_post"]))}


class NarrowStep(Faulty):
    sites = ("resid_pre", "resid_post")

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"] - batch["resid_pre"]))}


class Infinite(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(1 / norm(batch["resid_post"]))}


class Standardised(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        length = norm(batch["resid_post"])
        return {"x": PerToken(length - length[batch.mask].nan_to_num().mean())}


class AverageOfAverages(OneTable):
    def observe(self, batch):
        rows = real(batch)
        return {"x": Average(rows.double().mean().numpy())} if len(rows) else {}


class RowAsPrompt(OneTable):
    def observe(self, batch):
        rows = torch.arange(len(batch.ids))
        return {"x": TopK.of(99, norm(batch["resid_post"]), rows, batch.positions, batch.mask)}


class OwnOrder(OneTable):
    def observe(self, batch):
        return {"x": Arrivals(real(batch).double().sum(-1).numpy())}


class MergesInPlace(OneTable):
    def observe(self, batch):
        return {"x": Greedy(real(batch).double().sum(0).numpy())}


class IgnoresTheMask(OneTable):
    def observe(self, batch):
        everyone = torch.ones_like(batch.mask)
        return {"x": Sum.of(at_least_float32(batch["resid_post"]), everyone)}


class TimesTheMask(OneTable):
    def observe(self, batch):
        x = at_least_float32(batch["resid_post"]) * batch.mask[..., None]
        return {"x": Sum.of(x, torch.ones_like(batch.mask))}


class ReadsPadding(OneTable):
    def observe(self, batch):
        return {"x": Count.of(batch.tokens == 5)}


class PerColumn(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]) / batch.mask.shape[1])}


class ColumnAsPosition(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        columns = torch.arange(batch.mask.shape[1]).expand_as(batch.mask)
        return {"x": PerToken(columns.clamp(max=7))}


class CountsPrompts(OneTable):
    def observe(self, batch):
        return {"x": Count(np.asarray(len(batch.ids)))}


class MaximumOfNone(OneTable):
    def observe(self, batch):
        real(batch).max()
        return {"x": Count.of(batch.mask)}


class Hoards(OneTable):
    def observe(self, batch):
        return {"x": Sorted(np.sort(real(batch).double().sum(-1).numpy()))}


class NamesByPrompt(OneTable):
    def observe(self, batch):
        counts = {f"prompt {i}": Count.of(m) for i, m in zip(batch.ids, batch.mask, strict=True)}
        return {name: count for name, count in counts.items() if count.n}


class KeepsCallback(OneTable):
    def observe(self, batch):
        return {"x": Callback(real(batch).double().sum(0).numpy())}


class KeepsGradient(OneTable):
    def observe(self, batch):
        return {"x": OnTheGraph(real(batch).double().sum(0).numpy())}


class GivesObjects(OneTable):
    def observe(self, batch):
        return {"x": Objects(real(batch).double().sum().numpy())}


class KeepsView(OneTable):
    def observe(self, batch):
        if not batch.mask.any():
            return {}
        row = int(torch.where(batch.mask.any(-1), batch.ids, -1).argmax())
        vector = at_least_float32(batch["resid_post"])[row, int(batch.mask[row].int().argmax())]
        return {"x": Highest(vector.numpy(), int(batch.ids[row]))}


class NarrowSum(OneTable):
    def observe(self, batch):
        return {"x": Sum(real(batch).sum(0).numpy())}


class OwnNarrowSum(OneTable):
    def observe(self, batch):
        return {"x": OneArray(real(batch).sum(0).numpy())}


class ForgetsItsCount(OneTable):
    def observe(self, batch):
        x = real(batch).double()
        return {"x": Lossy(x.mean(0).numpy(), float(len(x)))} if len(x) else {}


class TextAndNumbers(OneTable):
    def observe(self, batch):
        return {"x": Count.of(batch.mask)}

    def table(self, state):
        return pd.DataFrame({"what": pd.Series([1, "one"], dtype=object)})


class Nested(TextAndNumbers):
    def table(self, state):
        return pd.DataFrame({"layer": [0], "x": [[1, 2]]})


class Twice(TextAndNumbers):
    def table(self, state):
        return pd.DataFrame([[1, 2]], columns=["x", "x"])


class OwnIndex(TextAndNumbers):
    def table(self, state):
        return super().table(state).assign(x=1).groupby("what").sum()


class NoTable(TextAndNumbers):
    def table(self, state):
        return pd.DataFrame()


class TokenColumn(TextAndNumbers):
    def table(self, state):
        return pd.DataFrame({"token": [1]})


class TableEmptiesState(TextAndNumbers):
    def table(self, state):
        for leaves in state.values():
            leaves.clear()
        return pd.DataFrame({"x": [1]})


class RowsOnly(Faulty):
    """A table that forgets that the caller may have asked for groups."""

    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]))}

    def table(self, state):
        rows = [leaves["x"].sorted()[2] for leaves in state.values()]
        return pd.DataFrame({"x": np.concatenate(rows)})


class Undocumented(Faulty):
    sites = ("resid_post",)
    columns: ClassVar[Mapping[str, str]] = {"size": "‖x‖; activation units"}

    def observe(self, batch):
        return {"size": PerToken(norm(batch["resid_post"])), "sise": PerToken(batch.mask)}


class NarrowRange(Faulty):
    """An angle in degrees whose range is that of a share."""

    sites = ("resid_pre", "resid_post")
    columns: ClassVar[Mapping[str, str]] = {"angle": "of one block's turn; degrees"}
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"*": (0, 1)}

    def observe(self, batch):
        return {"angle": PerToken(angle(batch["resid_pre"], batch["resid_post"]))}


class NarrowSummary(Faulty):
    """The same of a value that only a summary has."""

    sites = ("resid_post",)
    ranges: ClassVar[Mapping[str, tuple[float, float]]] = {"*": (0, 1)}

    def observe(self, batch):
        return {"size": Moments.of(norm(batch["resid_post"]), batch.mask)}


class LostFigure(Undocumented):
    columns: ClassVar[Mapping[str, str]] = {"si?e": "‖x‖; activation units"}
    plots = (Plot("line", ("angel",), "No such thing"),)


class OneFigure(LostFigure):
    plots = Plot("line", ("size",), "Sizes")


class NamedFigure(LostFigure):
    plots = ("size",)


class TextColumns(Undocumented):
    columns = "size: the norm"


class TextTokens(Undocumented):
    token_columns = "top"


class ListKeys(Undocumented):
    keys: ClassVar[list[str]] = ["kind"]


class TextScope(Undocumented):
    scope = "layers"


SPLITS = {"one batch equals many", "uneven split"}

PADDING = {
    "values under the mask",
    "length of padding",
    "side of padding",
    "fully masked example",
}

# What is never twice the same breaks every law that looks twice.
LOOKS_TWICE = {"every dtype", "order of prompts", *PADDING, *SPLITS}

SAVED = {"save and load"}

# analysis, the law that is there for its fault, other laws that it breaks too, what is said
FAULTS = [
    (
        TextSites(),
        "sites exist",
        set(),
        r"`sites` is 'resid_post', not a tuple.* write \('resid_post',\)",
    ),
    (NoSuchSite(), "sites exist", set(), "'resid_prae'; did you mean 'resid_pre'"),
    (BlockSiteOfThePass(), "sites exist", set(), "'pattern' is of one block: scope 'layer'"),
    (ReadsNothing(), "sites exist", set(), "no site is required"),
    (Undecorated(), "parameters", set(), "'k' is annotated like a parameter, but is no dataclass"),
    (ListParameter(), "parameters", {"runs"}, "unhashable type: 'list'"),
    (Doubled(), "parameters", SAVED, r"Doubled\(\*\*{'k': 6}\) is Doubled\(k=12\)"),
    (NotJson(), "parameters", SAVED, "complex is not JSON serializable"),
    (Raises(), "runs", set(), "analysis 'raises' failed at layer 0 on resid_post"),
    (ReadsUndeclared(), "runs", set(), "no site 'resid_pre' in this batch"),
    (BareTensor(), "runs", set(), r"emits 'x' as Tensor \(5, 6\), no leaf: wrap it, PerToken"),
    (NoDict(), "runs", set(), "failed at layer 0 .*returned PerToken, not a mapping"),
    (VectorPerToken(), "emissions", set(), r"shape \(5, 7, 8\); allowed is \[batch, pos\]"),
    (HeadsLast(), "emissions", set(), r"shape \(5, 7, 4\); allowed is \[batch, head, pos\]"),
    (Slash(), "emissions", set(), "'in/out', which is no name"),
    (TakenName(), "emissions", set(), "'position', a column that every table has"),
    (NeedsOptional(), "optional sites", set(), "without its optional sites"),
    (NeedsAttn(), "optional sites", set(), "with terms of other names"),
    (SquarePattern(), "optional sites", set(), "in a forward pass that continues a KV cache"),
    (InPlace(), "input unchanged", set(), "changed 'resid_post' in place"),
    (PadsTokens(), "input unchanged", set(), "changed 'tokens' in place"),
    (Remembers(), "keeps nothing", set(), "attribute 'seen' changed"),
    (RemembersInClass(), "keeps nothing", set(), "attribute 'RemembersInClass.seen' changed"),
    (Clock(), "deterministic", {"no global randomness", *LOOKS_TWICE}, "layer 0, leaf 'x'"),
    (GlobalRandom(), "no global randomness", LOOKS_TWICE, "with another global seed"),
    (
        RandomTable(),
        "no global randomness",
        {"deterministic", "merge order", "table is tidy", *SPLITS},
        "with another global seed, table column 'noise'",
    ),
    (DrawsInVain(), "no global randomness", set(), "global generator of random"),
    (NarrowStep(), "every dtype", set(), "the same values in bfloat16 and in float32: layer 0"),
    (Infinite(), "undefined is NaN", set(), "leaf 'x' of layer 0 is infinite"),
    (Standardised(), "one batch equals many", SPLITS, "one batch against one per prompt"),
    (AverageOfAverages(), "uneven split", {*SPLITS, "merge order"}, "batches of 1, 2 and 2"),
    (
        RowAsPrompt(),
        "order of prompts",
        {*SPLITS, "fully masked example"},
        "prompts in another order",
    ),
    (OwnOrder(), "merge order", {"order of prompts", "state does not grow"}, r"\(c\+b\)\+a"),
    (MergesInPlace(), "merge leaves its operands", {"merge order"}, "an operand has changed"),
    (
        IgnoresTheMask(),
        "values under the mask",
        {"fully masked example"},
        "with 37 under the mask",
    ),
    (
        TimesTheMask(),
        "values under the mask",
        {"fully masked example"},
        "with NaN under the mask: layer 0",
    ),
    (ReadsPadding(), "values under the mask", set(), "with other token ids under the mask"),
    (PerColumn(), "length of padding", {*SPLITS, *PADDING}, "with 1 more column of padding"),
    (ColumnAsPosition(), "side of padding", {"values under the mask"}, "padded on the left"),
    (CountsPrompts(), "fully masked example", set(), "two prompts that are all padding"),
    (MaximumOfNone(), "fully masked example", set(), "max"),
    (Hoards(), "state does not grow", set(), r"after 128 batches it holds \d+ bytes and after 64"),
    (NamesByPrompt(), "state does not grow", set(), "bytes and after"),
    (KeepsCallback(), "pickles", set(), "lambda"),
    (KeepsGradient(), "leaves detached on the CPU", set(), "a tensor that requires gradients"),
    (GivesObjects(), "leaves detached on the CPU", SAVED, "is object, not a NumPy array"),
    (KeepsView(), "leaves own their memory", set(), "overwriting the activations afterwards"),
    (NarrowSum(), "sums in float64", set(), "array 'total' of leaf 'x' of layer 0 is float32"),
    (OwnNarrowSum(), "sums in float64", set(), "array 'total' of leaf 'x' of layer 0 is float32"),
    (ForgetsItsCount(), "leaf round trip", set(), "restored from its arrays, merges to something"),
    (TextAndNumbers(), "save and load", set(), "table comes back changed"),
    (Nested(), "table is tidy", SAVED, "column 'x' holds list values"),
    (Twice(), "table is tidy", SAVED, "column 'x' is there twice"),
    (OwnIndex(), "table is tidy", SAVED, "the index carries data"),
    (NoTable(), "table is tidy", SAVED, "the table has no rows"),
    (TokenColumn(), "table is tidy", set(), "column 'token' is one that comes from the prompts"),
    (
        TableEmptiesState(),
        "table is tidy",
        {"merge order", *PADDING},
        "as rows: layer 0, leaf 'x' is there in one case",
    ),
    (
        RowsOnly(),
        "table is tidy",
        {"columns documented"},
        r"no attribute 'sorted' \(planted_faults.py, line \d+, in \S+: rows = ",
    ),
    (Undocumented(), "columns documented", set(), "column 'sise' is not in `columns`"),
    (
        NarrowRange(),
        "values in their ranges",
        set(),
        r"column 'angle' has the range \(0, 1\) in `ranges`, and the value 1\d\d\.\d",
    ),
    (
        NarrowSummary(),
        "values in their ranges",
        set(),
        r"column 'size' has the range \(0, 1\) in `ranges`, and the value \d\.\d+ \(min\)",
    ),
    (LostFigure(), "figures draw what is there", set(), "'No such thing' draws 'angel'"),
    (
        OneFigure(),
        "figures draw what is there",
        set(),
        r"one Plot, .* write \(Plot\('line', …\),\)",
    ),
    (NamedFigure(), "figures draw what is there", set(), "holds 'size', which is no interp.Plot"),
    (TextColumns(), "columns documented", set(), "`columns` is 'size: .*, not a mapping such as"),
    (TextTokens(), "columns documented", set(), r"'top', not a tuple .* write \('top',\)"),
    (ListKeys(), "columns documented", set(), r"`keys` is \['kind'\], not a tuple of names"),
    (TextScope(), "sites exist", set(), "'layers'; did you mean 'layer'.; allowed are"),
]


class NamelessUnit(Faulty):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]))}
