"""The checker is itself checked: each planted fault is reported under the name of its law."""

import pickle
import random
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.random_pairs import RandomPairs
from analyses.rotation import Rotation
from interp.contract.analysis import Analysis, Plot
from interp.contract.leaves import (
    Count,
    Cov,
    Examples,
    Histogram,
    Leaf,
    Moments,
    PerHead,
    PerToken,
    Sum,
    TopK,
    priority,
)
from interp.errors import BadInput, BrokenPlugin, ContractError, UnknownName
from interp.geometry import angle, at_least_float32, norm
from interp.runs.checks.checks import LAWS, Report, check_analysis
from interp.runs.checks.difference import frame_difference, leaf_difference
from interp.runs.checks.world import World, assemble, observe

PYPROJECT = ROOT / "pyproject.toml"
BUILT_IN = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["interp.analyses"]


def real(batch, site="resid_post"):
    """Vectors of the real tokens, `[token, d_model]`, wide enough to compute with."""
    return at_least_float32(batch[site][batch.mask])


# ---- what keeps the contract -----------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_analyses_keep_every_law(name):
    module, _, kind = BUILT_IN[name].partition(":")
    analysis = getattr(import_module(module), kind)()
    report = check_analysis(analysis)
    assert set(report.passed) == {n for n, w in LAWS.items() if w.weights} | (
        set() if analysis.scope == "weights" else set(LAWS)
    )
    assert report.notes == ()


@pytest.mark.parametrize(
    "analysis",
    [
        LogitLens(examples=0, top_k=1, identity_rows=1),
        Attention(maps=0),
        RandomPairs(per_layer=3, pairs=5, seed=9),
    ],
    ids=repr,
)
def test_other_parameters_keep_every_law_too(analysis):
    assert check_analysis(analysis).passed == tuple(LAWS)


@dataclass(frozen=True)
class Everything(Analysis):
    """Every leaf that there is, in one analysis."""

    edges: tuple[float, ...] = (-1.0, 0.0, 1.0)
    seed: int = 3

    sites: ClassVar = ("resid_post", "terms", "z", "scores")
    columns: ClassVar = {"entry": "which leaf; a name", "amount": "what is in it; counts"}

    @cached_property
    def squares(self):
        return [e * e for e in self.edges]

    def observe(self, batch):
        x, mask = at_least_float32(batch["resid_post"]), batch.mask
        length = norm(x)
        score = priority(self.seed, batch.ids[:, None], batch.positions, batch.layer)
        assert len(self.squares) == 3
        return {
            "total": Sum.of(x, mask),
            "tokens": Count.of(mask),
            "lengths": Moments.of(length, mask),
            "spread": Histogram.of(length, mask, self.edges),
            "cov": Cov.of(x, mask),
            "sample": TopK.of(5, score, batch.ids, batch.positions, mask, x),
            "kept": Examples.of(2, x, batch.ids, mask, axes=(0,)),
            "per_token": PerToken(length > 1),
            "per_head": PerHead(norm(batch["z"]).transpose(1, 2)),
        }

    def table(self, state):
        rows = [
            {"layer": layer, "entry": name, "amount": int(leaf.n)}
            for (_, layer), leaves in sorted(state.items())
            for name, leaf in leaves.items()
            if isinstance(leaf, Count)
        ]
        return pd.DataFrame(rows)


class NoTableOfItsOwn(Analysis):
    """Leaves that the default table knows."""

    sites = ("resid_post",)
    columns: ClassVar = {
        "tokens": "tokens seen; count",
        "size": "‖x‖; activation units",
        "longest": "the same, of the longest; activation units",
    }

    def observe(self, batch):
        length = norm(batch["resid_post"])
        return {
            "tokens": Count.of(batch.mask),
            "size": Histogram.of(length, batch.mask, (0.0, 1.0, 10.0)),
            # Only these rows are about a token; what the others lack must come back as missing.
            "longest": TopK.of(2, length, batch.ids, batch.positions, batch.mask),
        }


class Weights(Analysis):
    """Norms of the embedding, for scope "weights"."""

    scope = "weights"
    columns: ClassVar = {"norm": "mean ‖W_E[i]‖; units of the embedding"}

    def observe(self, batch):
        length = batch.model.W_E.norm(dim=-1)
        return {"norm": Moments.of_rows(length.numpy())}

    def table(self, state):
        return pd.DataFrame({"norm": [state["", -1]["norm"].mean.item()]})


@pytest.mark.parametrize("kind", [Everything, NoTableOfItsOwn])
def test_every_leaf_keeps_every_law(kind):
    assert check_analysis(kind()).passed == tuple(LAWS)


def test_laws_of_batches_say_nothing_about_weights():
    report = check_analysis(Weights())
    assert set(report.passed) | set(report.skipped) == set(LAWS)
    assert "merge order" in report.skipped
    assert "runs" in report.passed


def test_report_prints_the_laws_and_what_was_skipped():
    text = str(check_analysis(Weights(), laws=["runs", "uneven split"]))
    assert "analysis 'weights' keeps the contract: 1 laws" in text
    assert "\n  runs\n  - uneven split (does not apply to this scope)" in text


def test_class_and_default_parameters_are_accepted():
    assert check_analysis(Rotation, laws=["runs"]) == Report("rotation", ("runs",))


def test_unknown_law_has_the_nearest_name():
    with pytest.raises(UnknownName, match="unknown law 'merge oder'; did you mean 'merge order'"):
        check_analysis(Rotation(), laws=["merge oder"])


def test_what_is_no_analysis_is_refused():
    with pytest.raises(BadInput, match="an analysis is a name, an Analysis or its class, not 3"):
        check_analysis(3)


def test_no_model_library_is_imported():
    code = (
        "import sys; from interp.runs.checks.checks import check_analysis\n"
        "from analyses.rotation import Rotation; check_analysis(Rotation())\n"
        "sys.exit(any(m in sys.modules for m in ('transformer_lens', 'transformers', 'plotly')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_global_generators_and_threads_are_left_alone():
    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = random.getstate(), torch.get_rng_state(), pickle.dumps(np.random.get_state())  # noqa: NPY002
    threads = torch.get_num_threads()
    check_analysis(Rotation(), laws=["deterministic", "no global randomness"])
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert pickle.dumps(np.random.get_state()) == before[2]  # noqa: NPY002
    assert torch.get_num_threads() == threads


# ---- planted faults: leaves ------------------------------------------------------------------


class Plain(Leaf):
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


class Average(Plain):
    """An average of averages."""

    def merge(self, other):
        return type(self)((self.value + other.value) / 2)


class Greedy(Plain):
    """Adds into its own array."""

    def merge(self, other):
        self.value += other.value
        return self


class Arrivals(Plain):
    """Values in the order in which they came."""

    def merge(self, other):
        return type(self)(np.concatenate([self.value, other.value]))


class Lossy(Plain):
    """A mean whose count does not go to disk."""

    def __init__(self, value, n=1.0):
        super().__init__(value)
        self.n = n

    def merge(self, other):
        n = self.n + other.n
        return Lossy((self.value * self.n + other.value * other.n) / n, n)


class Callback(Plain):
    """Holds a function."""

    def __init__(self, value):
        super().__init__(value)
        self.finish = lambda x: x


class OnTheGraph(Plain):
    """Holds a tensor that wants gradients."""

    def __init__(self, value):
        super().__init__(value)
        self.tensor = torch.zeros(1, requires_grad=True)


class Objects(Plain):
    """Gives an array of objects."""

    def arrays(self):
        return {"total": np.asarray([self.value, None], dtype=object)}

    @classmethod
    def from_arrays(cls, arrays):
        return cls(arrays["total"][0])


class Sorted(Plain):
    """All values, in an order that nothing can upset."""

    def merge(self, other):
        return Sorted(np.sort(np.concatenate([self.value, other.value])))


class Highest(Plain):
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


class OneTable(Analysis):
    """Shows a number per layer, so that only the leaf is at fault."""

    sites = ("resid_post",)

    def table(self, state):
        layers = [layer for _, layer in sorted(state)]
        return pd.DataFrame({"layer": layers, "rows": len(layers)})


class TextSites(Analysis):
    sites = "resid_post"

    def observe(self, batch):
        return {}


class NoSuchSite(Analysis):
    sites = ("resid_prae",)

    def observe(self, batch):
        return {}


class BlockSiteOfThePass(Analysis):
    sites = ("stream", "pattern")
    scope = "model"

    def observe(self, batch):
        return {}


class ReadsNothing(Analysis):
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


class Raises(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(batch["resid_post"] @ batch["resid_post"])}


class ReadsUndeclared(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(angle(batch["resid_pre"], batch["resid_post"]))}


class BareTensor(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": norm(batch["resid_post"])}


class NoDict(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return PerToken(norm(batch["resid_post"]))


class VectorPerToken(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(batch["resid_post"])}


class HeadsLast(Analysis):
    sites = ("z",)

    def observe(self, batch):
        return {"x": PerHead(norm(batch["z"]))}


class Slash(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"in/out": PerToken(norm(batch["resid_post"]))}


class TakenName(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"position": PerToken(norm(batch["resid_post"]))}


class NeedsOptional(Analysis):
    sites = ("resid_post",)
    optional = ("resid_mid",)

    def observe(self, batch):
        return {"x": PerToken(angle(batch["resid_mid"], batch["resid_post"]))}


class NeedsAttn(Analysis):
    sites = ("terms",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch.terms["attn"]))}


class SquarePattern(Analysis):
    sites = ("pattern",)

    def observe(self, batch):
        return {"self": PerHead(torch.einsum("bhqq->bhq", batch["pattern"]))}


class InPlace(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        batch["resid_post"].mul_(0.5)
        return {"x": PerToken(norm(batch["resid_post"]))}


class PadsTokens(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        batch.tokens[~batch.mask] = -1
        return {"x": PerToken(norm(batch["resid_post"]))}


class Remembers(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        seen = vars(self).get("seen", 0)
        object.__setattr__(self, "seen", seen + 1)
        return {"x": PerToken(norm(batch["resid_post"]))}


class RemembersInClass(Analysis):
    sites = ("resid_post",)
    seen: ClassVar[list] = []

    def observe(self, batch):
        self.seen.append(1)
        return {"x": PerToken(norm(batch["resid_post"]))}


class Clock(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]) + time.perf_counter_ns() % 1000)}


class GlobalRandom(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]) + torch.rand(1))}


class RandomTable(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]))}

    def table(self, state):
        table = super().table(state)
        return table.assign(noise=np.random.rand(len(table)))  # noqa: NPY002


class DrawsInVain(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        random.random()
        return {"x": PerToken(norm(batch["resid_post"]))}


class NarrowStep(Analysis):
    sites = ("resid_pre", "resid_post")

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"] - batch["resid_pre"]))}


class Infinite(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(1 / norm(batch["resid_post"]))}


class Standardised(Analysis):
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


class PerColumn(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]) / batch.mask.shape[1])}


class ColumnAsPosition(Analysis):
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
        return {"x": Plain(real(batch).sum(0).numpy())}


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


class RowsOnly(Analysis):
    """A table that forgets that the caller may have asked for groups."""

    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]))}

    def table(self, state):
        rows = [leaves["x"].sorted()[2] for leaves in state.values()]
        return pd.DataFrame({"x": np.concatenate(rows)})


class Undocumented(Analysis):
    sites = ("resid_post",)
    columns: ClassVar[Mapping[str, str]] = {"size": "‖x‖; activation units"}

    def observe(self, batch):
        return {"size": PerToken(norm(batch["resid_post"])), "sise": PerToken(batch.mask)}


class LostFigure(Undocumented):
    columns: ClassVar[Mapping[str, str]] = {"si?e": "‖x‖; activation units"}
    plots = (Plot("line", ("angel",), "No such thing"),)


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
    (TextSites(), "sites exist", set(), "`sites` is 'resid_post', not a tuple"),
    (NoSuchSite(), "sites exist", set(), "'resid_prae'; did you mean 'resid_pre'"),
    (BlockSiteOfThePass(), "sites exist", set(), "'pattern' is of one block: scope 'layer'"),
    (ReadsNothing(), "sites exist", set(), "no site is required"),
    (Undecorated(), "parameters", set(), "'k' is annotated like a parameter, but is no dataclass"),
    (ListParameter(), "parameters", {"runs"}, "unhashable type: 'list'"),
    (Doubled(), "parameters", SAVED, r"Doubled\(\*\*{'k': 6}\) is Doubled\(k=12\)"),
    (NotJson(), "parameters", SAVED, "complex is not JSON serializable"),
    (Raises(), "runs", set(), "analysis 'raises' failed at layer 0 on resid_post"),
    (ReadsUndeclared(), "runs", set(), "unknown site in this batch 'resid_pre'"),
    (BareTensor(), "runs", set(), "emits 'x' as Tensor at layer 0"),
    (NoDict(), "runs", set(), "returned PerToken at layer 0, not a mapping"),
    (VectorPerToken(), "emissions", set(), r"shape \(5, 7, 8\); allowed is \[batch, pos\]"),
    (HeadsLast(), "emissions", set(), r"shape \(5, 7, 4\); allowed is \[batch, head, pos\]"),
    (Slash(), "emissions", set(), "'in/out', which is no name"),
    (TakenName(), "emissions", set(), "'position', a column that every table has"),
    (NeedsOptional(), "optional sites", set(), "without its optional sites"),
    (NeedsAttn(), "optional sites", set(), "with terms of other names"),
    (SquarePattern(), "optional sites", set(), "in a forward pass that continues a KV cache"),
    (InPlace(), "input unchanged", set(), "'state 1' has other values"),
    (PadsTokens(), "input unchanged", set(), "'tokens' has other values"),
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
    (RowsOnly(), "table is tidy", set(), "'Grouped' object has no attribute 'sorted'"),
    (Undocumented(), "columns documented", set(), "column 'sise' is not in `columns`"),
    (LostFigure(), "figures draw what is there", set(), "'No such thing' draws 'angel'"),
]


@pytest.mark.parametrize(
    ("analysis", "law", "others", "seen"), FAULTS, ids=[type(row[0]).__name__ for row in FAULTS]
)
def test_planted_fault_is_reported_by_the_name_of_its_law(analysis, law, others, seen):
    with pytest.raises(ContractError, match=seen) as caught:
        check_analysis(analysis)
    assert law in caught.value.broken
    assert set(caught.value.broken) <= {law, *others}


def test_every_law_is_broken_by_some_planted_fault():
    assert {law for _, law, _, _ in FAULTS} == set(LAWS)


def test_error_names_all_broken_laws_and_how_to_mend_them():
    with pytest.raises(BrokenPlugin) as caught:
        check_analysis(PerColumn())
    text = str(caught.value)
    assert text.startswith("analysis 'per_column' breaks 5 laws of the contract\n")
    assert "\n  length of padding: with 1 more column" in text
    assert "\n    Count with `batch.mask`, never with the shape of the batch." in text


def test_local_class_cannot_go_to_other_processes():
    class Local(Rotation):
        """Defined in a function."""

    with pytest.raises(ContractError) as caught:
        check_analysis(Local())
    assert set(caught.value.broken) == {"pickles", "save and load"}


def test_error_of_the_contract_pickles():
    error = ContractError("text", {"runs": "seen"})
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (str(again), again.broken) == ("text", {"runs": "seen"})


def test_without_columns_or_docstring_there_is_advice():
    notes = check_analysis(NamelessUnit()).notes
    assert [n.split(":")[0] for n in notes] == ["`columns` is empty", "the class has no docstring"]


class NamelessUnit(Analysis):
    sites = ("resid_post",)

    def observe(self, batch):
        return {"x": PerToken(norm(batch["resid_post"]))}


# ---- the synthetic activations themselves ----------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_synthetic_activations_hang_together(side):
    context, values = assemble(World(side=side, extra=2))
    mask, n = context.mask, World().n_blocks
    for layer in range(n):
        x, mid = values["", "state", layer], values["", "resid_mid", layer]
        attn, mlp = values["", "term:attn", layer], values["", "term:mlp", layer]
        assert torch.allclose(x + attn, mid)
        assert torch.allclose(x + attn + mlp, values["", "state", layer + 1])
        pattern, scores = values["", "pattern", layer], values["", "scores", layer]
        rows = pattern.transpose(1, 2)[mask]
        assert torch.allclose(rows.sum(-1), torch.ones(1))
        assert torch.allclose(scores.softmax(-1).transpose(1, 2)[mask], rows)
        assert (pattern * ~mask[:, None, None, :] == 0).all()
    readout = World().anatomy().readout
    final, logits = values["", "state", n][mask], values["", "logits", 0][mask]
    assert readout.check(final, logits).max() < 1e-5


def test_synthetic_positions_targets_and_special_tokens():
    context, _ = assemble(World(ids=(2, 1), side="left"))
    assert context.mask.tolist() == [[True] * 4, [False] * 3 + [True]]
    assert context.positions[0].tolist() == [0, 1, 2, 3]
    assert context.special.sum(1).tolist() == [1, 1]
    assert context.targets[0].tolist() == [*context.tokens[0, 1:].tolist(), -1]


def shown(kind, world):
    """The batches that an analysis gets; afterwards their activations are let go."""
    batches = []

    class Watched(kind):
        def observe(self, batch):
            batches.append(batch)
            return super().observe(batch)

    calls = observe(Watched(), world).calls
    assert not any(batch.sites or batch.terms for _, batch, _ in calls)
    return batches


def test_totals_over_depth_are_carried_within_a_batch():
    (calls,) = [observe(PathLength(), World()).calls]
    steps = [emitted["step"].values for _, _, emitted in calls]
    path = [emitted["path"].values for _, _, emitted in calls]
    assert torch.allclose(path[2], steps[0] + steps[1] + steps[2])


def test_next_state_is_absent_at_the_last_block():
    batches = shown(Rotation, World())
    assert ["resid_next" in batch.sites for batch in batches] == [True, True, False]


def test_pass_with_a_cache_has_more_keys_than_queries():
    batch, *_ = shown(Attention, World(side="left", cached=True))
    assert batch["pattern"].shape[-2:] == (1, 6)
    assert batch.key_mask.shape == (5, 6)


# ---- comparing -------------------------------------------------------------------------------


def test_differences_are_said_in_words():
    one, other = Sum(np.asarray([1.0, 2.0])), Sum(np.asarray([1.0, 2.5]))
    assert leaf_difference(one, one) is None
    assert leaf_difference(one, other) == "total is 2 in one case, 2.5 in the other at [1]"
    assert leaf_difference(one, Count(np.asarray(1))) == "Sum in one case, Count in the other"
    assert "shape" in leaf_difference(one, Sum(np.zeros(3)))


def test_rounding_and_nan_are_no_difference():
    a, b = np.asarray([1.0, np.nan, np.inf, 1e6]), np.asarray([1.00005, np.nan, np.inf, 1e6 + 1])
    assert leaf_difference(Sum(a), Sum(b)) is None
    assert leaf_difference(Sum(a), Sum(b), rtol=0) is not None
    assert leaf_difference(Sum(a), Sum(np.nan_to_num(a))) is not None


def test_tables_differ_by_columns_rows_and_values():
    table = pd.DataFrame({"x": [1.0, 2.0], "word": ["a", None]})
    assert frame_difference(table, table.copy()) is None
    assert "columns" in frame_difference(table, table.rename(columns={"x": "y"}))
    assert "rows" in frame_difference(table, table[:1])
    assert "'word'" in frame_difference(table, table.assign(word=["a", "b"]))
