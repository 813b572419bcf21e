"""The synthetic activations of the checks, and how values are compared."""

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.attention import Attention
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp.contract.leaves import (
    Count,
    Sum,
)
from interp.runs.checks.difference import frame_difference, leaf_difference
from interp.runs.checks.world import World, assemble, observe

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
