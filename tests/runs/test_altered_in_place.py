"""An analysis that changes what it reads: the user's pass, and the tables of the others."""

from __future__ import annotations

from contextlib import nullcontext
from typing import ClassVar

import pandas as pd
import pytest
import torch
from conftest import hooks_on

import interp
from interp.errors import AlteredError
from interp.models import observer

pytestmark = [
    pytest.mark.usefixtures("clean"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class InPlace(interp.Analysis):
    """Mean of what it has centred itself, wrongly."""

    sites = ("resid_post",)
    columns: ClassVar = {"mean": "mean of the entries"}

    def observe(self, batch):
        self.change(batch["resid_post"], batch)
        return {"mean": interp.PerToken(batch["resid_post"].mean(-1))}

    def change(self, x, batch):
        x -= x.mean(-1, keepdim=True) + 1


def test_what_the_library_ships_is_shown_the_activations_themselves(gpt2, monkeypatch):
    """Copies of all that a lens reads would take as much memory as the model's logits."""
    shown = []
    watch = observer.observed
    monkeypatch.setattr(
        observer,
        "observed",
        lambda analysis, batch, on_copies: (
            shown.append((analysis.name(), on_copies))
            or watch(analysis, batch, on_copies=on_copies)
        ),
    )
    with interp.attach(gpt2, "rotation", "logit_lens", Harmless()):
        gpt2(torch.arange(5)[None])
    assert {name for name, copied in shown if copied} == {Harmless().name()}
    assert {name for name, _ in shown} == {"rotation", "logit_lens", Harmless().name()}


class Harmless(InPlace):
    def change(self, x, batch):
        pass


class ByNumPy(InPlace):
    def change(self, x, batch):
        x.numpy()[:] = 1


class ByData(InPlace):
    def change(self, x, batch):
        x.data.mul_(2)


class OfTerms(InPlace):
    optional = ("terms",)

    def change(self, x, batch):
        next(iter(batch.terms.values())).mul_(0)


class OfMask(InPlace):
    def change(self, x, batch):
        batch.mask[:, 0] = False


class ThenFails(InPlace):
    def change(self, x, batch):
        x.mul_(0)
        raise ValueError("too late")


class Later(InPlace):
    """Changes a block in the middle, and only from the second pass on."""

    seen: ClassVar[list[int]] = []

    def change(self, x, batch):
        if batch.layer == 1:
            self.seen.append(1)
            if len(self.seen) > 1:
                x -= 5


def tokens_of(seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 100, (2, 7), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("kind", [InPlace, ByNumPy, ByData, OfTerms, OfMask, ThenFails])
def test_neither_the_pass_nor_another_table_is_changed(gpt2, kind, inference):
    tokens = tokens_of()
    alone = gpt2(tokens)
    with interp.attach(gpt2, "rotation") as only:
        gpt2(tokens)
    with interp.attach(gpt2, kind(), "rotation") as probes:
        with torch.inference_mode() if inference else nullcontext():
            logits = [gpt2(tokens.clone()), gpt2(tokens.clone())]
    assert all(torch.equal(alone, each) for each in logits)
    frame = probes["rotation"].frame
    first = frame[frame["call"] == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first[list(only["rotation"].frame)], only["rotation"].frame)
    assert len(frame) == 2 * len(first)
    assert probes["rotation"].notes == only["rotation"].notes
    with pytest.raises(AlteredError, match="in place, which is a copy"):
        probes[kind.name()]
    assert probes.results.provenance["attached"]["not_observed"] == {
        f"{kind.name()}: it changed what it reads in place": 2
    }
    assert hooks_on(gpt2) == []


@pytest.mark.parametrize("order", [(Later, "rotation"), ("rotation", Later)])
@pytest.mark.parametrize("inference", [False, True])
def test_a_pass_that_was_changed_is_in_no_table(gpt2, order, inference, monkeypatch):
    monkeypatch.setattr(Later, "seen", [])
    tokens = tokens_of()
    with interp.attach(gpt2, *order) as probes:
        with torch.inference_mode() if inference else nullcontext():
            gpt2(tokens)
            gpt2(tokens_of(1))
            alone = gpt2(tokens)
    assert len(Later.seen) == 2  # called no more after it was found out
    assert torch.equal(alone, gpt2(tokens))
    assert set(probes["rotation"].frame["call"]) == {0, 2}
    assert set(probes["later"].frame["call"]) == {0}
    kind = "rotation: 'later' changed an activation of it in place"
    assert f"Not observed, or not wholly: 1 passes ({kind})." in probes["rotation"].notes
    counted = probes.results.provenance["attached"]["not_observed"]
    assert counted == {kind: 1, "later: it changed what it reads in place": 2}


def test_a_pass_that_goes_on_from_a_changed_one_is_in_no_table(gpt2, monkeypatch):
    monkeypatch.setattr(Later, "seen", [])
    with interp.attach(gpt2, Later, "rotation") as probes:
        gpt2(tokens_of())
        gpt2.generate(tokens_of(1), max_new_tokens=4, stop_at_eos=False, verbose=False)
        gpt2(tokens_of(2))
    rows = probes["rotation"].frame
    assert set(rows["call"]) == {0, rows["call"].max()}
    assert rows["call"].max() >= 4


def test_a_cache_is_as_it_was(gpt2):
    _, cache = gpt2.run_with_cache(tokens_of())
    before = cache["blocks.1.hook_resid_post"].clone()
    with pytest.raises(AlteredError, match="in place, which is a copy"):
        interp.from_cache(cache, InPlace, tokens=tokens_of(), model=gpt2)
    assert torch.equal(cache["blocks.1.hook_resid_post"], before)
