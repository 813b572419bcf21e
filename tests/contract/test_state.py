"""Every leaf against NumPy in float64, under any split, any tree of merges and a round trip."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from interp._arrays import to_numpy
from interp.contract.analysis import Batch
from interp.contract.leaves import (
    LEAVES,
    Count,
    Cov,
    Examples,
    Grouped,
    Histogram,
    Leaf,
    Moments,
    Once,
    PerHead,
    PerToken,
    Rows,
    Sum,
    TopK,
    leaf_class,
    merge_states,
    priority,
)
from interp.contract.reduce import Groups, reduce_emissions
from interp.contract.table import default_table
from interp.errors import BadInput, UnknownName
from interp.models.contexts import next_tokens
from interp.runs.checks.difference import leaf_difference

quick = settings(max_examples=60, deadline=None)
# Bounded, so that the float64 reference has digits to spare.
numbers = st.floats(-1e4, 1e4, width=32) | st.just(float("nan"))


@st.composite
def pieces(draw, elements=numbers, max_size=40):
    """Values cut into consecutive pieces, some of them empty."""
    values = draw(st.lists(elements, max_size=max_size))
    cuts = sorted(draw(st.lists(st.integers(0, len(values)), max_size=5)))
    return [values[a:b] for a, b in itertools.pairwise([0, *cuts, len(values)])]


def flat(parts):
    return list(itertools.chain.from_iterable(parts))


def merged_in_any_tree(leaves, data):
    """Merge neighbours or strangers, in whichever order hypothesis picks."""
    leaves = list(leaves)
    while len(leaves) > 1:
        a = leaves.pop(data.draw(st.integers(0, len(leaves) - 1)))
        b = leaves.pop(data.draw(st.integers(0, len(leaves) - 1)))
        leaves.append(a.merge(b))
    return leaves[0]


def tensor(values, dtype=torch.float64):
    return torch.tensor(values, dtype=dtype).reshape(1, -1)


def everywhere(values):
    return torch.ones(1, len(values), dtype=torch.bool)


def round_trip(leaf):
    return type(leaf).from_arrays(leaf.arrays())


# ---- Moments ---------------------------------------------------------------------------------


def assert_moments(leaf, values):
    values = np.asarray(values, dtype=np.float64)
    real = values[~np.isnan(values)]
    assert leaf.count == len(real)
    assert leaf.undefined == len(values) - len(real)
    if len(real) == 0:
        assert np.isnan(leaf.mean)
        assert np.isnan(leaf.variance)
        return
    scale = np.abs(real).max() + 1
    np.testing.assert_allclose(leaf.mean, real.mean(), atol=1e-12 * scale)
    assert leaf.min == real.min()
    assert leaf.max == real.max()
    if len(real) > 1:
        np.testing.assert_allclose(leaf.variance, real.var(ddof=1), atol=1e-10 * scale**2)
    else:
        assert np.isnan(leaf.variance)


@quick
@given(pieces(), st.data())
def test_moments_under_any_split_and_tree(parts, data):
    leaves = [Moments.of(tensor(p), everywhere(p)) for p in parts]
    assert_moments(merged_in_any_tree(leaves, data), flat(parts))


@quick
@given(pieces(), st.data())
def test_restored_moments_merge_like_the_original(parts, data):
    leaves = [round_trip(Moments.of(tensor(p), everywhere(p))) for p in parts]
    assert_moments(round_trip(merged_in_any_tree(leaves, data)), flat(parts))


def test_moments_do_not_cancel_beside_a_large_mean():
    values = 1e8 + np.asarray([4.0, 7.0, 13.0, 16.0])
    parts = [Moments.of_rows(values[:1]), Moments.of_rows(values[1:])]
    assert parts[0].merge(parts[1]).variance == 30.0


def test_moments_are_taken_over_the_mask_and_keep_trailing_axes():
    values = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, True, False]])
    leaf = Moments.of(values, mask)
    rows = values[mask].numpy().astype(float)
    np.testing.assert_allclose(leaf.mean, rows.mean(0))
    np.testing.assert_allclose(leaf.variance, rows.var(0, ddof=1))
    assert leaf.count.tolist() == [3] * 4


@pytest.mark.parametrize("values", [[-np.inf, 1.0, 2.0], [np.inf, -np.inf, 0.0], [-np.inf] * 3])
def test_infinite_values_give_the_same_in_any_order(values):
    with np.errstate(invalid="ignore"):
        mean = np.mean(values)
    for order in itertools.permutations(values):
        whole = Moments.of_rows(np.asarray(order))
        first, second = (
            Moments.of_rows(np.asarray(order[:1])),
            Moments.of_rows(np.asarray(order[1:])),
        )
        for leaf in (whole, first.merge(second), second.merge(first)):
            np.testing.assert_equal(np.asarray(leaf.mean), np.asarray(mean))
            assert np.isnan(leaf.variance)
            assert leaf.max == max(values)


def test_moments_of_integers_and_booleans():
    assert Moments.of(tensor([1, 2, 6], torch.int64), everywhere([1] * 3)).mean == 3.0
    assert Moments.of(tensor([1, 0, 0, 1], torch.bool), everywhere([1] * 4)).mean == 0.5


# ---- Sum, Count ------------------------------------------------------------------------------


@quick
@given(pieces(st.floats(-1e4, 1e4, width=32)), st.data())
def test_sums_and_counts_under_any_split_and_tree(parts, data):
    sums = [Sum.of(tensor(p, torch.float32), everywhere(p)) for p in parts]
    counts = [Count.of(everywhere(p)) for p in parts]
    values = flat(parts)
    exact = float(sum(map(Fraction, values)))
    np.testing.assert_allclose(merged_in_any_tree(sums, data).total, exact, atol=1e-9)
    assert merged_in_any_tree(counts, data).n == len(values)


def test_sum_of_float32_is_added_in_float64():
    values = torch.full((1, 10_000), 0.1)
    leaf = Sum.of(values, torch.ones(1, 10_000, dtype=torch.bool))
    assert np.asarray(leaf.total).dtype == np.float64
    assert leaf.total == pytest.approx(10_000 * float(np.float32(0.1)), rel=1e-14)


def test_sum_of_vectors_over_the_mask():
    x, mask = torch.randn(3, 4, 5), torch.rand(3, 4) > 0.4
    np.testing.assert_allclose(Sum.of(x, mask).total, x[mask].double().sum(0).numpy())
    assert Sum.of(x, torch.zeros(3, 4, dtype=torch.bool)).total.tolist() == [0.0] * 5


# ---- Cov -------------------------------------------------------------------------------------


@quick
@given(st.integers(0, 30), st.lists(st.integers(0, 30), max_size=4), st.data())
def test_covariance_against_numpy(n, cuts, data):
    vectors = np.random.default_rng(n).standard_normal((n, 3)) + np.asarray([5.0, -3.0, 0.0])
    cuts = sorted(min(c, n) for c in cuts)
    leaves = [
        Cov.of(torch.from_numpy(vectors[a:b])[None], torch.ones(1, b - a, dtype=torch.bool))
        for a, b in itertools.pairwise([0, *cuts, n])
    ]
    leaf = round_trip(merged_in_any_tree([round_trip(x) for x in leaves], data))
    assert leaf.count == n
    if n > 1:
        np.testing.assert_allclose(leaf.covariance, np.cov(vectors.T), atol=1e-12)
        np.testing.assert_allclose(leaf.mean, vectors.mean(0), atol=1e-12)
    else:
        assert np.isnan(leaf.covariance).all()


def test_covariance_of_half_precision_is_in_float64():
    x = torch.randn(1, 50, 4).bfloat16()
    leaf = Cov.of(x, torch.ones(1, 50, dtype=torch.bool))
    assert leaf.scatter.dtype == np.float64
    np.testing.assert_allclose(leaf.covariance, np.cov(x[0].double().numpy().T))


# ---- Histogram -------------------------------------------------------------------------------


@quick
@given(pieces(st.integers(-12, 12).map(lambda i: i / 4) | st.just(float("nan"))), st.data())
def test_histogram_against_numpy(parts, data):
    edges = (-2.0, -0.5, 0.0, 1.0, 2.5)
    leaves = [Histogram.of(tensor(p), everywhere(p), edges) for p in parts]
    leaf = round_trip(merged_in_any_tree(leaves, data))
    values = np.asarray(flat(parts), dtype=np.float64)
    real = values[~np.isnan(values)]
    # NumPy's last bin is closed on both sides; these are all open above.
    inside, _ = np.histogram(real, bins=[*edges[:-1], np.nextafter(edges[-1], -np.inf)])
    assert leaf.counts[1:-1].tolist() == inside.tolist()
    assert leaf.counts[0] == (real < edges[0]).sum()
    assert leaf.counts[-1] == (real >= edges[-1]).sum()
    assert leaf.undefined == np.isnan(values).sum()


def test_histogram_takes_infinite_values_to_the_ends():
    values = [-np.inf, 0.5, np.inf]
    assert Histogram.of(tensor(values), everywhere(values), (0, 1)).counts.tolist() == [1, 1, 1]


def test_histograms_with_other_edges_do_not_merge():
    a, b = (Histogram.of(tensor([1.0]), everywhere([1]), e) for e in ((0, 1), (0, 2)))
    with pytest.raises(BadInput, match="different edges cannot be merged"):
        a.merge(b)


@pytest.mark.parametrize("edges", [(1, 0), (0, 0), ((0, 1), (2, 3))])
def test_histogram_edges_increase(edges):
    with pytest.raises(BadInput, match="histogram edges must increase"):
        Histogram.of(tensor([1.0]), everywhere([1]), edges)


# ---- TopK ------------------------------------------------------------------------------------


def top(k, scores, ids, width=3, payload=None):
    """A batch of prompts of `width` tokens each."""
    shape = (len(ids), width)
    return TopK.of(
        k,
        torch.tensor(scores).reshape(shape),
        torch.tensor(ids),
        torch.arange(width).expand(shape),
        torch.ones(shape, dtype=torch.bool),
        payload,
    )


@quick
@given(st.lists(st.integers(0, 4), min_size=18, max_size=18), st.integers(1, 20), st.data())
def test_topk_with_many_ties_under_any_split(scores, k, data):
    scores = [float(s) for s in scores]
    leaves = [top(k, scores[3 * i : 3 * i + 3], [i]) for i in range(6)]
    leaf = round_trip(merged_in_any_tree(leaves, data))
    rows = [(-s, i // 3, i % 3) for i, s in enumerate(scores)]
    best = sorted(rows)[:k]
    got = zip(-leaf.scores, leaf.prompt, leaf.position, strict=True)
    assert [(s, p, i) for s, p, i in got] == best


def test_topk_ties_go_to_the_lowest_prompt_then_position():
    leaf = top(2, [1.0] * 6, [9, 4])
    assert leaf.prompt.tolist() == [4, 4]
    assert leaf.position.tolist() == [0, 1]


def test_topk_leaves_nan_and_padding_out_and_carries_the_payload():
    payload = torch.arange(12).reshape(2, 3, 2)
    leaf = top(9, [np.nan, 5.0, 1.0, 2.0, np.nan, 7.0], [0, 1], payload=payload)
    assert leaf.scores.tolist() == [7.0, 5.0, 2.0, 1.0]
    assert leaf.payload.tolist() == [[10, 11], [2, 3], [6, 7], [4, 5]]
    mask = torch.tensor([[True, False, False]])
    only = TopK.of(3, torch.ones(1, 3), torch.tensor([0]), torch.arange(3)[None], mask)
    assert only.position.tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.float16])
def test_topk_of_scores_of_any_type(dtype):
    leaf = top(2, torch.tensor([0, 1, 1], dtype=dtype).tolist(), [0])
    assert leaf.position.tolist() == [1, 2]


def test_topk_infinite_scores_sort_first_and_last():
    assert top(3, [-np.inf, np.inf, 0.0], [0]).position.tolist() == [1, 2, 0]


def test_topk_of_other_k_does_not_merge():
    with pytest.raises(BadInput, match="k=2 and k=3 cannot be merged"):
        top(2, [1.0] * 3, [0]).merge(top(3, [1.0] * 3, [1]))


# ---- Examples --------------------------------------------------------------------------------


def test_examples_keep_the_lowest_ids_in_any_order_of_batches():
    def of(ids):
        values = torch.tensor(ids, dtype=torch.float32)[:, None].expand(-1, 4)
        return Examples.of(2, values, torch.tensor(ids), torch.ones(len(ids), 4).bool(), axes=(0,))

    for batches in itertools.permutations([[7, 3], [5], [1, 9]]):
        a, b, c = (of(ids) for ids in batches)
        for leaf in (a.merge(b).merge(c), a.merge(b.merge(c))):
            restored = round_trip(leaf)
            assert sorted(restored.items) == [1, 3]
            assert restored.items[3].tolist() == [3.0] * 4


@pytest.mark.parametrize("side", ["left", "right"])
def test_examples_are_cut_to_real_tokens_along_every_axis(side):
    mask = torch.tensor([[True, True, False]])
    pattern = torch.arange(18.0).reshape(1, 2, 3, 3)
    if side == "left":
        mask, pattern = mask.flip(1), pattern.flip(2, 3)
    item = Examples.of(1, pattern, torch.tensor([4]), mask, axes=(1, 2)).items[4]
    expected = torch.arange(18.0).reshape(2, 3, 3)[:, :2, :2]
    assert item.shape == (2, 2, 2)
    assert sorted(item.ravel()) == sorted(expected.ravel().tolist())


@pytest.mark.parametrize("real", [[1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 1, 1], [0, 0, 0, 1]])
def test_examples_of_any_mask_equal_numpys_own_choice_and_own_their_memory(real):
    mask = torch.tensor([real]).bool()
    pattern = torch.arange(64.0).reshape(1, 4, 4, 4).transpose(2, 3)
    item = Examples.of(1, pattern, torch.tensor([0]), mask, axes=(1, 2)).items[0]
    kept = np.flatnonzero(real)
    assert np.array_equal(item, pattern[0].numpy()[:, kept][:, :, kept])
    assert item.flags.c_contiguous
    assert not np.shares_memory(item, pattern.numpy())
    assert item.base is None or item.base.nbytes == item.nbytes, "a view holds on to a whole batch"


def test_examples_skip_prompts_that_are_all_padding():
    mask = torch.tensor([[False, False], [True, False], [True, True]])
    leaf = Examples.of(2, torch.zeros(3, 2), torch.tensor([0, 1, 2]), mask, axes=(0,))
    assert sorted(leaf.items) == [1, 2]


def test_examples_are_copies():
    values = torch.zeros(1, 3)
    leaf = Examples.of(1, values, torch.tensor([0]), torch.ones(1, 3).bool(), axes=())
    values += 1
    assert leaf.items[0].tolist() == [0.0] * 3


# ---- Grouped, Rows, Once ---------------------------------------------------------------------


@quick
@given(st.lists(st.tuples(st.sampled_from("abc"), numbers), max_size=30), st.data())
def test_groups_are_the_moments_of_their_members(rows, data):
    cut = data.draw(st.integers(0, len(rows)))

    def of(part):
        keys = {(k, "x") for k, _ in part}
        return Grouped(
            {key: Moments.of_rows(np.asarray([v for k, v in part if k == key[0]])) for key in keys}
        )

    leaf = round_trip(round_trip(of(rows[:cut])).merge(of(rows[cut:])))
    assert set(leaf.groups) == {(k, "x") for k, _ in rows}
    for key, moments in leaf.groups.items():
        assert_moments(moments, [v for k, v in rows if k == key[0]])


def test_no_groups_at_all_go_to_arrays_and_back():
    assert round_trip(Grouped({})).groups == {}
    some = Grouped({("a",): Moments.of_rows(np.ones(2))})
    assert round_trip(Grouped({})).merge(some).groups[("a",)].count == 2


def test_group_keys_may_hold_any_text():
    key = ("", "naïve / 'quoted'\n", "日本")
    assert set(round_trip(Grouped({key: Moments.of_rows(np.ones(1))})).groups) == {key}


@quick
@given(st.permutations(range(12)), st.lists(st.integers(0, 12), max_size=4), st.data())
def test_rows_come_out_sorted_whatever_the_order(order, cuts, data):
    prompt, position = np.asarray(order) // 4, np.asarray(order) % 4
    values = np.asarray(order, dtype=np.float32) * 1.5
    leaves = [
        Rows.of(prompt[a:b], position[a:b], values[a:b])
        for a, b in itertools.pairwise([0, *sorted(cuts), 12])
    ]
    p, i, v = round_trip(merged_in_any_tree(leaves, data)).sorted()
    assert (p * 4 + i).tolist() == list(range(12))
    assert v.tolist() == [1.5 * n for n in range(12)]
    assert v.dtype == np.float32


def test_once_keeps_one_copy_and_refuses_another():
    leaf = Once({"x": np.asarray([1.0, np.nan])})
    assert leaf_difference(leaf.merge(round_trip(leaf)), leaf) is None
    with pytest.raises(BadInput, match="different weights cannot be merged"):
        leaf.merge(Once({"x": np.asarray([1.0, 2.0])}))


# ---- all leaves ------------------------------------------------------------------------------

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[True, True, False], [True, False, False]])
IDS, POSITIONS = torch.tensor([5, 2]), torch.arange(3).expand(2, 3)
SAMPLES = [
    Rows.of(np.arange(3), np.zeros(3, dtype=int), np.ones(3)),
    Sum.of(X, MASK),
    Count.of(MASK),
    Moments.of(X, MASK),
    Grouped({("a",): Moments.of(X, MASK)}),
    Histogram.of(X[..., 0], MASK, (-1, 0, 1)),
    Cov.of(X, MASK),
    TopK.of(2, X[..., 0], IDS, POSITIONS, MASK, X),
    Examples.of(1, X, IDS, MASK, axes=(0,)),
    Once({"x": np.arange(3)}),
]


def test_there_is_a_sample_of_every_leaf():
    assert {type(leaf).__name__ for leaf in SAMPLES} == set(LEAVES)


@pytest.mark.parametrize("leaf", SAMPLES, ids=lambda leaf: type(leaf).__name__)
def test_arrays_and_back(leaf):
    arrays = leaf.arrays()
    assert all(isinstance(a, np.ndarray) for a in arrays.values())
    assert leaf_difference(leaf, round_trip(leaf), rtol=0) is None
    assert leaf.nbytes() == sum(a.nbytes for a in arrays.values())
    assert leaf_class(type(leaf).__name__) is type(leaf)


def test_leaves_of_plug_ins_are_found_by_name():
    class Mine(Leaf):
        """A leaf of someone else's."""

    assert leaf_class("Mine") is Mine
    with pytest.raises(UnknownName, match="unknown leaf 'Momens'; did you mean 'Moments'"):
        leaf_class("Momens")


def test_states_merge_by_layer_and_name_and_leave_their_operands():
    a = {("", 0): {"n": Count(np.asarray(1))}, ("", 1): {"n": Count(np.asarray(2))}}
    b = {("", 1): {"n": Count(np.asarray(5)), "m": Count(np.asarray(7))}}
    out = merge_states(a, b)
    assert {k: {n: int(c.n) for n, c in v.items()} for k, v in out.items()} == {
        ("", 0): {"n": 1},
        ("", 1): {"n": 7, "m": 7},
    }
    assert set(a["", 1]) == {"n"}
    assert a["", 1]["n"].n == 2


def test_tensors_come_to_numpy_without_a_graph():
    x = torch.ones(2, requires_grad=True) * 2
    assert to_numpy(x).tolist() == [2.0, 2.0]
    assert to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32


# ---- priority --------------------------------------------------------------------------------


def scores(seed=0, prompts=60, positions=50, layer=0):
    return priority(seed, torch.arange(prompts)[:, None], torch.arange(positions)[None], layer)


@pytest.mark.parametrize("seed", [0, 1, 12345, -7])
def test_priority_is_uniform(seed):
    values = scores(seed).numpy().ravel()
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    assert len(np.unique(values)) == values.size


def test_priority_does_not_repeat_between_neighbours_seeds_or_layers():
    base = scores()
    others = (scores(seed=1), scores(layer=1), scores().roll(1, 0), scores().roll(1, 1))
    for other in others:
        correlation = np.corrcoef(base.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4 / base.numel() ** 0.5


def test_priority_does_not_depend_on_the_batch():
    whole = scores()
    alone = priority(0, torch.tensor([17]), torch.tensor([3]), 0)
    assert alone.item() == whole[17, 3].item()
    assert priority(0, torch.tensor(17), torch.tensor(3), 0).item() == whole[17, 3].item()


def test_the_highest_priorities_are_a_uniform_sample():
    taken = np.zeros(100)
    for seed in range(400):
        taken[scores(seed, 1, 100).numpy().ravel().argsort()[-10:]] += 1
    assert stats.chisquare(taken).pvalue > 1e-3


# ---- emissions to state ----------------------------------------------------------------------

LENGTHS = (3, 1, 4)


def batch(side="right", width=5, layer=2):
    starts = [width - n if side == "left" else 0 for n in LENGTHS]
    mask = torch.zeros(3, width, dtype=torch.bool)
    positions = torch.zeros(3, width, dtype=torch.int64)
    for row, (n, start) in enumerate(zip(LENGTHS, starts, strict=True)):
        mask[row, start : start + n] = True
        positions[row, start : start + n] = torch.arange(n)
    tokens = torch.arange(3 * width).reshape(3, width)
    ids = torch.tensor([11, 4, 8])
    return Batch(
        sites={},
        tokens=tokens,
        mask=mask,
        special=positions == -1,
        ids=ids,
        positions=positions,
        targets=next_tokens(tokens, mask),
        key_tokens=tokens,
        key_mask=mask,
        layer=layer,
    )


def loop(b, values):
    """(prompt, position) -> value, by plain loops; `values [batch, ..., pos]`."""
    found = {}
    for row, column in itertools.product(range(3), range(b.mask.shape[1])):
        if b.mask[row, column]:
            where = int(b.ids[row]), int(b.positions[row, column])
            found[where] = values[row, ..., column].double().numpy()
    return dict(sorted(found.items()))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("heads", [None, 2])
def test_rows_against_plain_loops(side, heads):
    b = batch(side)
    values = torch.randn(3, 5) if heads is None else torch.randn(3, heads, 5)
    emission = PerToken(values) if heads is None else PerHead(values)
    ((key, leaves),) = reduce_emissions({"x": emission}, b, "", None).items()
    prompt, position, rows = leaves["x"].sorted()
    expected = loop(b, values)
    assert key == ("", 2)
    assert list(zip(prompt.tolist(), position.tolist(), strict=True)) == list(expected)
    np.testing.assert_allclose(rows, np.stack(list(expected.values())))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("heads", [None, 2])
def test_groups_against_plain_loops(side, heads):
    b = batch(side)
    values = torch.randn(3, 5) if heads is None else torch.randn(3, heads, 5)
    emission = PerToken(values) if heads is None else PerHead(values)
    keys = (("even", "p"), ("odd", "p"), ("never", "p"))
    codes = np.where(b.mask.numpy(), b.positions.numpy() % 2, -1)
    codes[b.positions.numpy() == 2] = -1  # no group: counted nowhere
    leaf = reduce_emissions({"x": emission}, b, "enc", Groups(codes, keys))["enc", 2]["x"]
    assert set(leaf.groups) == {("even", "p"), ("odd", "p")}
    for parity, name in enumerate(("even", "odd")):
        rows = [v for (_, i), v in loop(b, values).items() if i % 2 == parity and i != 2]
        group = leaf.groups[name, "p"]
        np.testing.assert_allclose(group.mean, np.mean(rows, axis=0))
        np.testing.assert_allclose(group.variance, np.var(rows, axis=0, ddof=1))
        assert np.all(group.count == len(rows))


@pytest.mark.parametrize("side", ["left", "right"])
def test_stacked_values_become_one_leaf_per_layer(side):
    b = batch(side, layer=None)
    values = torch.randn(4, 3, 5)
    state = reduce_emissions({"x": PerToken(values), "n": Count.of(b.mask)}, b, "", None)
    assert sorted(state) == [("", -1), ("", 0), ("", 1), ("", 2), ("", 3)]
    assert state["", -1]["n"].n == sum(LENGTHS)
    for layer in range(4):
        _, _, rows = state["", layer]["x"].sorted()
        np.testing.assert_allclose(rows, list(loop(b, values[layer]).values()))


def test_integers_and_booleans_keep_their_type():
    b = batch()
    emitted = {"flag": PerToken(b.tokens > 3), "id": PerToken(b.tokens)}
    leaves = reduce_emissions(emitted, b, "", None)["", 2]
    assert leaves["flag"].sorted()[2].dtype == np.bool_
    assert leaves["id"].sorted()[2].dtype == np.int64


def test_table_of_groups_says_how_many_are_undefined():
    b = batch()
    values = torch.full((3, 5), torch.nan)
    values[0, 0] = 2.0
    groups = Groups(np.where(b.mask.numpy(), (b.ids != 11)[:, None].numpy(), -1), (("a",), ("b",)))
    table = default_table(reduce_emissions({"x": PerToken(values)}, b, "", groups))
    assert table["group_0"].tolist() == ["a", "b"]
    assert table["n"].tolist() == [1, 0]
    assert table["undefined"].tolist() == [2, 5]
    assert table["mean"].tolist()[0] == 2.0
    for column in ("mean", "std", "min", "max"):
        assert np.isnan(table[column][1]), column


def test_table_of_other_leaves_has_a_row_per_entry_bin_or_kept_token():
    b = batch()
    x = torch.arange(15.0).reshape(3, 5)
    leaves = {
        "sum": Sum.of(torch.stack([x, -x], dim=-1), b.mask),
        "tokens": Count.of(b.mask),
        "spread": Histogram.of(x, b.mask, (0.0, 5.0)),
        "size": Moments.of(x, b.mask),
        "best": TopK.of(2, x, b.ids, b.positions, b.mask),
    }
    table = default_table(reduce_emissions(leaves, b, "", None)).set_index("value")
    total = float(x[b.mask].sum())
    assert table.loc["sum", "total"].tolist() == [total, -total]
    assert table.loc["sum", "entry"].tolist() == [0, 1]
    assert table.loc["tokens", "n"] == 8
    assert table.loc["spread", ["low", "high", "n"]].to_numpy().tolist() == [
        [-np.inf, 0.0, 0],
        [0.0, 5.0, 3],
        [5.0, np.inf, 5],
    ]
    assert table.loc["size", "mean"] == pytest.approx(total / 8)
    assert table.loc["best", ["prompt", "position", "score"]].to_numpy().tolist() == [
        [8, 3, 13.0],
        [8, 2, 12.0],
    ]
    assert (table["layer"] == 2).all()


def test_table_leaves_out_what_has_no_rows_and_what_stands_beside_rows():
    b = batch()
    cov = Cov.of(torch.randn(3, 5, 2), b.mask)
    assert default_table(reduce_emissions({"cov": cov}, b, "", None)).empty
    state = reduce_emissions({"x": PerToken(b.tokens), "n": Count.of(b.mask)}, b, "", None)
    state["", -1] = {"m": Count.of(b.mask)}
    assert list(default_table(state)) == [
        "prompt",
        "position",
        "x",
        "layer",
    ]


def test_table_repeats_token_values_beside_values_of_heads():
    b = batch()
    emitted = {"h": PerHead(torch.arange(30.0).reshape(3, 2, 5)), "t": PerToken(torch.ones(3, 5))}
    table = default_table(reduce_emissions(emitted, b, "", None))
    assert list(table) == ["prompt", "position", "head", "h", "t", "layer"]
    assert len(table) == 2 * sum(LENGTHS)
    first = table[(table["prompt"] == 11) & (table["position"] == 0)]
    assert first["h"].tolist() == [0.0, 5.0]
