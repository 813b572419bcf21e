"""Attention by offset, rollout and head types, against explicit loops and simulation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import interp
from analyses.position_profile import PositionProfile

TEXTS = ["the man saw her in a red house", "a queen told her", "the dog met him on the old road ."]
rng = np.random.default_rng(3)


def random_patterns(n: int, heads: int = 2, concentration: float = 1.0) -> torch.Tensor:
    """Causal rows that sum to 1 and care for no offset: `[head, n, n]`."""
    out = np.zeros((heads, n, n))
    for h in range(heads):
        for i in range(n):
            out[h, i, : i + 1] = rng.dirichlet(np.full(i + 1, concentration))
    return torch.from_numpy(out)


def causal(n: int) -> torch.Tensor:
    return torch.ones(n, n).tril().bool()


def pairs_by_loops(patterns, allowed, max_offset):
    """(offset, value) of every allowed pair, of one head."""
    return [
        (i - j, float(x[i, j]))
        for x, ok in zip(patterns, allowed, strict=True)
        for i in range(x.shape[0])
        for j in range(x.shape[1])
        if ok[i, j] and abs(i - j) <= max_offset
    ]


def eta_squared(pairs) -> float:
    offsets, values = (np.array(v) for v in zip(*pairs, strict=True))
    mean = values.mean()
    between = sum(
        (offsets == o).sum() * (values[offsets == o].mean() - mean) ** 2 for o in set(offsets)
    )
    return between / ((values - mean) ** 2).sum()


@pytest.mark.parametrize("max_offset", [3, 20])
def test_profile_by_loops(max_offset):
    patterns = [random_patterns(n) for n in (5, 9, 1)]
    sums = sum(interp.offset_sums(p, causal(p.shape[-1]), 0, max_offset) for p in patterns)
    seen = interp.offset_profile(sums.numpy())
    for head in range(2):
        pairs = pairs_by_loops(
            [p[head] for p in patterns], [causal(p.shape[-1]) for p in patterns], max_offset
        )
        for k, offset in enumerate(seen.offsets):
            values = [v for o, v in pairs if o == offset]
            assert seen.pairs[head, k] == len(values)
            assert seen.mean[head, k] == pytest.approx(np.mean(values))
            assert seen.std[head, k] == pytest.approx(np.std(values), abs=1e-7)
        assert set(seen.offsets) == {o for o, _ in pairs}
        assert seen.share[head] == pytest.approx(eta_squared(pairs))


def test_offsets_of_later_queries_and_of_keys_ahead():
    x = torch.from_numpy(rng.random((1, 3, 7)))
    everything = torch.ones(3, 7).bool()
    sums = interp.offset_sums(x, everything, 4, 5)[1, 0]
    for k, offset in enumerate(range(-5, 6)):
        expected = sum(float(x[0, i, j]) for i in range(3) for j in range(7) if 4 + i - j == offset)
        assert sums[k] == pytest.approx(expected)


def test_what_is_not_allowed_may_hold_anything():
    x = random_patterns(6)
    dirty = x.masked_fill(~causal(6), torch.nan)
    a, b = (interp.offset_sums(v, causal(6), 0, 8) for v in (x, dirty))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("centre", [False, True])
def test_shuffled_share_is_what_shuffling_gives(centre):
    """The closed form against a thousand shuffles of a head that does care for offsets."""
    n = 8
    x = torch.from_numpy(
        rng.random((1, n, n)) + np.exp(-np.abs(np.subtract.outer(range(n), range(n))))
    )
    seen = interp.offset_profile(interp.offset_sums(x, causal(n), 0, n, centre=centre).numpy())
    shares = []
    for _ in range(1000):
        shuffled = x.clone()
        for i in range(n):
            shuffled[0, i, : i + 1] = x[0, i, rng.permutation(i + 1)]
        sums = interp.offset_sums(shuffled, causal(n), 0, n, centre=centre)
        shares.append(interp.offset_profile(sums.numpy()).share[0])
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - seen.shuffled[0]) < 4 * error
    assert seen.share[0] > np.quantile(shares, 0.99)


def test_heads_without_a_preference_show_the_shuffled_share():
    """The null: exchangeable keys; the share is at its control over many heads."""
    x = random_patterns(14, heads=300)
    seen = interp.offset_profile(interp.offset_sums(x, causal(14), 0, 14).numpy())
    difference = seen.share - seen.shuffled
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(300)


def test_a_previous_token_head_is_explained_by_the_offset():
    x = torch.zeros(1, 9, 9, dtype=torch.float64)
    x[0, range(1, 9), range(8)] = 1
    x[0, 0, 0] = 1
    seen = interp.offset_profile(interp.offset_sums(x[:, 1:], causal(9)[1:], 1, 8).numpy())
    assert seen.share[0] == pytest.approx(1)
    assert seen.shuffled[0] < 0.4


def test_a_constant_pattern_has_no_share():
    seen = interp.offset_profile(interp.offset_sums(torch.ones(1, 4, 4), causal(4), 0, 3).numpy())
    assert np.isnan(seen.share).all()
    assert np.isnan(seen.shuffled).all()


# ---- on models -------------------------------------------------------------------------------


def test_position_profile_keeps_the_contract():
    interp.check_analysis(PositionProfile())
    interp.check_analysis(PositionProfile(max_offset=2, special=True))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_position_profile_of_a_model(request, name):
    model = request.getfixturevalue(name)
    result = interp.run(model, TEXTS, ["position_profile"], progress=False)["position_profile"]
    patterns, scores, allowed = [], [], []
    with torch.no_grad():
        for text in TEXTS:
            _, cache = model.run_with_cache(model.to_tokens(text))
            # Without the special first token, neither as query nor as key.
            patterns.append(cache["blocks.1.attn.hook_pattern"][0, 2, 1:, 1:].double())
            x = cache["blocks.1.attn.hook_attn_scores"][0, 2, 1:, 1:].double()
            ok = causal(len(x))
            mean = x.masked_fill(~ok, 0).sum(-1) / ok.sum(-1)
            scores.append(x - mean[:, None])
            allowed.append(ok)
    frame = result.frame.query("layer == 1 and head == 2").set_index("offset")
    for column, values in (("pattern", patterns), ("score", scores)):
        pairs = pairs_by_loops(values, allowed, 64)
        for offset, group in frame.iterrows():
            expected = np.mean([v for o, v in pairs if o == offset])
            assert group[column] == pytest.approx(expected, abs=1e-6)
        assert frame[f"{column}_share"].iloc[0] == pytest.approx(eta_squared(pairs), rel=1e-4)
    assert sorted(frame.index) == list(range(max(len(p) for p in patterns)))
    result.plot()


def test_special_tokens_count_when_asked_for(gpt2):
    tokens = gpt2.to_tokens(TEXTS[0])
    with interp.attach(gpt2, PositionProfile(special=True)) as probes, torch.no_grad():
        gpt2(tokens)
    whole = probes["position_profile"].frame
    assert whole.query("layer == 0 and head == 0")["pairs"].sum() == 9 * 10 / 2
