"""What `check_analysis` passes, and what it finds in analyses and leaves with planted faults."""

import pickle
import random
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT
from planted_faults import (
    FAULTS,
    NamelessUnit,
    PerColumn,
)

from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.random_pairs import RandomPairs
from analyses.rotation import Rotation
from interp.contract.analysis import Analysis
from interp.contract.leaves import (
    Count,
    Cov,
    Examples,
    Histogram,
    Moments,
    PerHead,
    PerToken,
    Sum,
    TopK,
    priority,
)
from interp.errors import BadInput, BrokenPlugin, ContractError, UnknownName
from interp.geometry import at_least_float32, norm
from interp.runs.checks.checks import LAWS, Report, check_analysis

PYPROJECT = ROOT / "pyproject.toml"

BUILT_IN = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["interp.analyses"]


# ---- what keeps the contract -----------------------------------------------------------------


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_analyses_keep_every_law(name):
    module, _, kind = BUILT_IN[name].partition(":")
    analysis = getattr(import_module(module), kind)()
    report = check_analysis(analysis)
    assert set(report.passed) == {n for n, w in LAWS.items() if w.weights} | (
        set() if analysis.scope == "weights" else set(LAWS)
    )
    # Some columns of the lens are those of a translator, which is not there by default; others need
    # longer prompts or more of them than the laws show.
    about = {
        "logit_attribution": "column 'rest_logit' is 0 in all worlds",  # no hook adds anything
        "logit_lens": "plain_kl_to_final",
        "mean_position_context": "no defined value in any world .*'position_share'",
        "spectrum": "no defined value in any world .*: columns 'alpha', 'alpha_r2'",
        "token_curvature": "no defined value in any world .*: columns 'speed', 'angle', 'cur",
    }
    assert len(report.notes) == (name in about)
    assert all(re.search(about[name], note) for note in report.notes)


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


# ---- planted faults: analyses ----------------------------------------------------------------


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


def test_without_docstring_there_is_advice():
    notes = check_analysis(NamelessUnit()).notes
    assert [n.split(":")[0] for n in notes] == ["the class has no docstring"]
