"""Distance of attention where a head looks to both sides."""

from __future__ import annotations

import numpy as np
import torch

from analyses.attention import Attention
from interp import Batch


def test_a_head_that_looks_both_ways_is_far_and_not_at_zero():
    """Signed, the left and the right neighbour cancel; absolute, they are one token away."""
    n = 5
    pattern = torch.zeros(1, 2, n, n)
    for i in range(1, n - 1):
        pattern[0, 0, i, [i - 1, i + 1]] = 0.5
    pattern[0, 1] = 1 / n  # everywhere alike: (n² − 1) / 3n on average over the queries
    ids = torch.arange(n)[None]
    mask = torch.ones(1, n, dtype=torch.bool)
    batch = Batch(
        sites={"pattern": pattern},
        tokens=ids,
        mask=mask,
        special=~mask,
        ids=torch.tensor([0]),
        positions=ids,
        targets=ids,
        key_tokens=ids,
        key_mask=mask,
        layer=0,
        n_layers=1,
    )
    found = Attention(maps=0).observe(batch)
    inner = slice(1, n - 1)
    assert found["distance"].values[0, 0, inner].tolist() == [0.0] * (n - 2)
    assert found["abs_distance"].values[0, 0, inner].tolist() == [1.0] * (n - 2)
    even = found["abs_distance"].values[0, 1].double().mean()
    np.testing.assert_allclose(even, (n**2 - 1) / (3 * n), rtol=1e-6)
    assert abs(float(found["distance"].values[0, 1].mean())) < 1e-6
