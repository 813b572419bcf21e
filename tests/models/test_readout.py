"""The lens against SciPy in float64, and what the readout refuses."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from interp.errors import BadInput, Unsupported
from interp.models.lens import plain as _lens_plain
from interp.models.lens.best import largest
from interp.models.lens.head import Head, LensStatistics
from interp.models.lens.statistics import lens_statistics
from interp.models.readout import Readout

NAMES = LensStatistics.names()
D, V, STATES, ROWS = 12, 40, 4, 9
RNG = np.random.default_rng(3)
W_U = RNG.standard_normal((V, D))
BIAS = RNG.standard_normal(V)
STREAM = RNG.standard_normal((STATES, ROWS, D)) * np.arange(1, STATES + 1)[:, None, None]
TARGETS = np.where(np.arange(ROWS) % 4 == 3, -1, RNG.integers(0, V, ROWS))
TARGET_IDS = torch.from_numpy(TARGETS)


def rms(x):
    return x / (x * x).mean(-1, keepdims=True) ** 0.5


def rms_torch(x):
    return x / x.pow(2).mean(-1, keepdim=True).sqrt()


def soft_cap(z, tanh=np.tanh):
    return 5 * tanh(z / 5)


def tensor(x, dtype=torch.float64):
    return torch.tensor(np.asarray(x), dtype=dtype)


def build(*, bias=True, cap=False, dtype=torch.float64, **options):
    return Readout(
        "rms, W_U",
        rms_torch,
        tensor(W_U, dtype),
        tensor(BIAS, dtype) if bias else None,
        **({"transform": lambda z: soft_cap(z, torch.tanh)} if cap else {}),
        **options,
    )


def expected_logits(x, *, bias=True, cap=False):
    z = rms(x) @ W_U.T + (BIAS if bias else 0)
    return soft_cap(z) if cap else z


def expected_lens(z, targets):
    """Every statistic of `z [state, row, vocab]` with NumPy and SciPy, row by row."""
    out = {name: np.full(z.shape[:2], np.nan) for name in NAMES}
    final = np.exp(log_softmax(z[-1], axis=-1))
    for s, r in np.ndindex(*z.shape[:2]):
        log_p = log_softmax(z[s, r])
        p, q = np.exp(log_p), final[r]
        middle = (p + q) / 2
        if targets[r] >= 0:
            out["log_prob"][s, r] = log_p[targets[r]]
            out["rank"][s, r] = (z[s, r] > z[s, r, targets[r]]).sum()
        out["entropy"][s, r] = -(p[p > 0] * log_p[p > 0]).sum()
        out["kl_to_final"][s, r] = rel_entr(q, p).sum()
        out["js_to_final"][s, r] = (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2
        out["tv_to_final"][s, r] = np.abs(p - q).sum() / 2
        out["top_token"][s, r] = p.argmax()
        out["top_prob"][s, r] = p.max()
        out["agrees"][s, r] = p.argmax() == q.argmax()
    return out


def lens(readout, dtype=torch.float64, targets=TARGETS, stream=STREAM):
    x = tensor(stream, dtype)
    return readout.lens(x, readout.logits(x[-1]), torch.from_numpy(targets))


def as_arrays(stats):
    return {n: getattr(stats, n).double().numpy() for n in NAMES}


OPTIONS = [{}, {"bias": False}, {"cap": True}, {"bias": False, "cap": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)], ids=str
)
def test_every_statistic_against_scipy(options, dtype, tolerance):
    got = as_arrays(lens(build(dtype=dtype, **options), dtype))
    for name, expected in expected_lens(expected_logits(STREAM, **options), TARGETS).items():
        np.testing.assert_allclose(
            got[name], expected, rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_logits_against_numpy():
    np.testing.assert_allclose(build().logits(tensor(STREAM)).numpy(), expected_logits(STREAM))
    assert build().logits(tensor(STREAM)).shape == (STATES, ROWS, V)


def test_last_state_is_the_models_own_distribution():
    stats = lens(build())
    for name in ("kl_to_final", "js_to_final", "tv_to_final"):
        assert getattr(stats, name)[-1].abs().max() == 0
    assert stats.agrees[-1].all()


def test_last_state_is_not_projected_again():
    readout, x = build(), tensor(STREAM)
    logits = readout.logits(x[-1])
    moved = x.clone()
    moved[-1] = torch.nan
    got = readout.lens(moved, logits, TARGET_IDS)
    assert torch.equal(got.entropy, readout.lens(x, logits, TARGET_IDS).entropy)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
def test_bounds_hold_also_for_disjoint_distributions(scale):
    x = tensor(STREAM * 0 + RNG.standard_normal(STREAM.shape), torch.float32)
    readout = Readout("scaled", lambda v: v * scale, tensor(W_U, torch.float32))
    stats = readout.lens(x, readout.logits(x[-1]), TARGET_IDS)
    assert (stats.js_to_final >= 0).all()
    assert (stats.js_to_final <= math.log(2) + 1e-6).all()
    assert (stats.tv_to_final >= 0).all()
    assert (stats.tv_to_final <= 1 + 1e-6).all()
    assert (stats.kl_to_final >= 0).all()
    assert (stats.entropy >= 0).all()
    assert (stats.entropy <= math.log(V) + 1e-5).all()


def test_disjoint_distributions_reach_the_bounds():
    logits = torch.tensor([[50.0, -50.0]])
    readout = Readout("flip", lambda x: x, torch.eye(2))
    stats = readout.lens(
        torch.tensor([[[-50.0, 50.0]], [[50.0, -50.0]]]), logits, torch.zeros(1).long()
    )
    assert stats.js_to_final[0].item() == pytest.approx(math.log(2))
    assert stats.tv_to_final[0].item() == pytest.approx(1)
    assert stats.kl_to_final[0].item() == pytest.approx(100)


def test_uniform_and_certain_distributions():
    readout = Readout("identity", lambda x: x, torch.eye(5))
    x = torch.stack([torch.zeros(1, 5), torch.tensor([[0.0, 900.0, 0.0, 0.0, 0.0]])])
    stats = readout.lens(x, x[-1], torch.tensor([1]))
    assert stats.entropy[:, 0].tolist() == pytest.approx([math.log(5), 0.0])
    assert stats.log_prob[:, 0].tolist() == pytest.approx([-math.log(5), 0.0])


def test_ties_do_not_worsen_the_rank():
    readout = Readout("identity", lambda x: x, torch.eye(4))
    rows = torch.tensor([[3.0, 1.0, 3.0, 1.0]]).expand(4, 4)
    stats = readout.lens(torch.stack([rows, rows]), rows, torch.arange(4))
    assert stats.rank.tolist() == [[0.0, 2.0, 0.0, 2.0]] * 2


def test_no_target_is_nan_and_nothing_else():
    stats = as_arrays(lens(build(), targets=np.full(ROWS, -1)))
    assert np.isnan(stats["log_prob"]).all()
    assert np.isnan(stats["rank"]).all()
    for name in set(stats) - {"log_prob", "rank"}:
        assert np.isfinite(stats[name]).all(), name


def test_tokens_that_the_model_rules_out():
    # A mask of -inf on some of the vocabulary, as models with unused rows have.
    out = torch.zeros(V, dtype=torch.float64)
    out[5:9] = -torch.inf
    readout = Readout("masked", rms_torch, tensor(W_U), tensor(BIAS) + out)
    targets = np.full(ROWS, 6)
    stats = as_arrays(lens(readout, targets=targets))
    z = expected_logits(STREAM) + out.numpy()
    expected = expected_lens(z, targets)
    assert np.isneginf(stats["log_prob"]).all()
    assert (stats["rank"] == V - 4).all()
    for name in ("entropy", "kl_to_final", "js_to_final", "tv_to_final", "top_token"):
        np.testing.assert_allclose(stats[name], expected[name], atol=1e-10, err_msg=name)


def test_kl_is_infinite_where_the_state_rules_out_what_the_model_says():
    bias, final = torch.tensor([-torch.inf, 0.0, 0.0]), torch.tensor([[1.0, 0.0, 0.0]])
    readout = Readout("given", lambda x: x, torch.zeros(3, 3), bias)
    stats = readout.lens(torch.stack([final, final]), final, torch.tensor([0]))
    assert stats.kl_to_final[0].item() == math.inf
    assert 0 < stats.js_to_final[0].item() <= math.log(2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_without_divergences_everything_else_is_the_same(dtype):
    readout, x = build(cap=True, dtype=dtype), tensor(STREAM, dtype)
    head = Head(readout.weight, readout.bias, readout.transform)
    h, logits = readout.normalise(x[:-1]), readout.logits(x[-1])
    with_them = as_arrays(lens_statistics(h, head, logits, TARGET_IDS))
    without = as_arrays(lens_statistics(h, head, logits, TARGET_IDS, divergences=False))
    for name, values in without.items():
        if name in _lens_plain.FAR:
            assert np.isnan(values).all(), name
        else:
            np.testing.assert_allclose(values, with_them[name], rtol=1e-12, err_msg=name)


def plain_lens(options, dtype, *, fuse=False):
    """What the form in PyTorch gives for all states but the last, `[state, row]` by name."""
    readout, x = build(dtype=dtype, **options), tensor(STREAM, dtype)
    head = Head(readout.weight, readout.bias, readout.transform if options.get("cap") else None)
    targets = TARGET_IDS.clamp(min=0)
    got, _ = _lens_plain.PlainLens(head, divergences=True, fuse=fuse).statistics(
        readout.normalise(x[:-1]), readout.logits(x[-1]), targets
    )
    return {name: value.double().numpy() for name, value in got.items()}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)], ids=str
)
def test_plain_form_against_scipy(options, dtype, tolerance):
    got = plain_lens(options, dtype)
    expected = expected_lens(expected_logits(STREAM, **options), np.maximum(TARGETS, 0))
    assert sorted([*got, "agrees"]) == sorted(expected)
    for name, values in got.items():
        np.testing.assert_allclose(
            values, expected[name][:-1], rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_plain_form_without_divergences_has_none_of_them():
    head, h = Head(tensor(W_U)), tensor(rms(STREAM))
    lens = _lens_plain.PlainLens(head, divergences=False, fuse=False)
    got, _ = lens.statistics(h, head.logits(h[-1]), TARGET_IDS.clamp(min=0))
    assert all(got[name].isnan().all() for name in _lens_plain.FAR)
    assert all(got[name].isfinite().all() for name in _lens_plain.NAMES)


def test_plain_form_rules_out_what_the_model_does():
    out = torch.zeros(V, dtype=torch.float64)
    out[5:9] = -torch.inf
    head, h = Head(tensor(W_U), tensor(BIAS) + out), tensor(rms(STREAM))
    targets = torch.full((ROWS,), 6)
    logits = head.logits(h[-1])
    got, _ = _lens_plain.PlainLens(head, divergences=True, fuse=False).statistics(
        h[:-1], logits, targets
    )
    expected = expected_lens(expected_logits(STREAM) + out.numpy(), targets.numpy())
    for name in set(got) - {"rank"}:
        np.testing.assert_allclose(
            got[name].double(), expected[name][:-1], atol=1e-10, err_msg=name
        )


def test_without_a_compiler_the_plain_form_runs_and_says_so_once(monkeypatch):
    def no_compiler(function, **options):
        raise RuntimeError("no compiler\nand a long trace")

    monkeypatch.setattr(torch, "compile", no_compiler)
    call = _lens_plain.fused.__wrapped__(_lens_plain.row_statistics)
    z, targets = tensor(RNG.standard_normal((2, 3, V))), torch.arange(3)
    with pytest.warns(UserWarning, match="cannot fuse the lens here .RuntimeError: no compiler."):
        first = call(z, targets)
    again = call(z, targets)
    for got in (first, again):
        for a, b in zip(got, _lens_plain.row_statistics(z, targets), strict=True):
            assert torch.equal(a, b)


@pytest.mark.full
def test_compiled_form_equals_the_plain_one():
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        plain, compiled = (plain_lens({}, dtype, fuse=c) for c in (False, True))
        for name, values in plain.items():
            np.testing.assert_allclose(
                compiled[name], values, rtol=tolerance, atol=tolerance, err_msg=name
            )


def test_no_rows_at_all():
    stats = lens(build(), targets=TARGETS[:0], stream=STREAM[:, :0])
    assert all(v.shape == (STATES, 0) for v in as_arrays(stats).values())


def test_rows_that_do_not_match_are_refused():
    readout, x = build(), tensor(STREAM)
    with pytest.raises(
        BadInput, match="stream has 9 rows, logits 8, targets 9; they must be equal"
    ):
        readout.lens(x, readout.logits(x[-1])[:8], TARGET_IDS)


def test_input_is_not_written_to():
    readout, x = build(cap=True), tensor(STREAM)
    logits = readout.logits(x[-1])
    kept = x.clone(), logits.clone(), readout.weight.clone()
    readout.lens(x, logits, TARGET_IDS)
    readout.check(x[-1], logits)
    assert all(torch.equal(a, b) for a, b in zip(kept, (x, logits, readout.weight), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_come_out_in_float32(dtype):
    readout = build(dtype=dtype)
    x = tensor(STREAM, dtype)
    logits = readout.logits(x)
    assert logits.dtype == torch.float32
    rounded = tensor(W_U, dtype).double(), tensor(BIAS, dtype).double()
    expected = rms_torch(x).double() @ rounded[0].T + rounded[1]
    assert torch.allclose(logits.double(), expected, rtol=1e-5, atol=1e-5)


def test_top_tokens_against_numpy():
    probabilities, ids = build().top(tensor(STREAM), 3)
    p = np.exp(log_softmax(expected_logits(STREAM), axis=-1))
    order = np.argsort(-p, axis=-1)[..., :3]
    assert (ids.numpy() == order).all()
    np.testing.assert_allclose(probabilities.numpy(), np.take_along_axis(p, order, -1))


@pytest.mark.parametrize("n", [1, 5, 1279, 1280, 1281, 50_257])
@pytest.mark.parametrize("k", [1, 5, 9])
def test_the_largest_are_those_of_a_whole_sort(n, k):
    z = torch.from_numpy(
        np.random.default_rng(n).permuted(np.arange(3.0 * n).reshape(3, n), axis=1)
    )
    z[0, : n // 2] = -torch.inf
    values, places = largest(z, k)
    order = np.argsort(-z.numpy(), axis=1)[:, :k]
    assert torch.equal(values, torch.from_numpy(np.take_along_axis(z.numpy(), order, 1)))
    assert torch.equal(z.gather(1, places), values)
    finite = values > -torch.inf
    assert torch.equal(places[finite], torch.from_numpy(order)[finite])


def test_the_largest_of_what_is_not_a_number_show_it():
    z = torch.zeros(2, 5000)
    z[1, 4321] = torch.nan
    values, places = largest(z, 3)
    assert values[0].tolist() == [0.0] * 3
    assert bool(values[1, 0].isnan())
    assert places[1, 0] == 4321


def test_top_asks_for_no_more_than_there_is():
    probabilities, ids = build().top(tensor(STREAM), V + 5)
    assert ids.shape[-1] == V
    assert torch.allclose(probabilities.sum(-1), torch.ones(1).double())


# ---- the identity ----------------------------------------------------------------------------


def test_identity_error_is_relative_to_the_largest_logit():
    readout, x = build(), tensor(STREAM[-1])
    logits = readout.logits(x)
    assert readout.identity_error(x, logits).max() == 0
    largest = logits.abs().amax(-1)
    shifted = logits.clone()
    shifted[:, 0] += 0.01 * largest
    got = readout.identity_error(x, shifted)
    reference = shifted.abs().amax(-1)
    assert torch.allclose(got, 0.01 * largest / reference)
    assert got.shape == (ROWS,)


def test_check_passes_within_the_tolerance_and_says_the_error():
    readout, x = build(tolerance=1e-3), tensor(STREAM[-1])
    logits = readout.logits(x)
    assert readout.check(x, logits * (1 + 5e-4)).max() < 1e-3
    with pytest.raises(Unsupported) as caught:
        readout.check(x, logits * 2)
    assert str(caught.value) == (
        "the readout rms, W_U no longer gives the model's own logits: relative error 0.5, "
        "allowed 1e-03; a hook after the last block, or changed weights, would do that"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_the_lens_checks_the_rows_that_it_is_told_to(dtype, options):
    readout, x = build(tolerance=1e-3, dtype=dtype, **options), tensor(STREAM, dtype)
    logits, rows = readout.logits(x[-1]), torch.arange(ROWS) == 2
    logits[2] *= 1 + 5e-4
    logits[3] *= 2
    stats = readout.lens(x, logits, TARGET_IDS, checked=rows)
    apart = readout.identity_error(x[-1], logits)
    assert torch.allclose(stats.end_error, apart[rows], atol=1e-6)
    with pytest.raises(Unsupported, match="relative error 0.5, allowed 1e-03"):
        readout.lens(x, logits, TARGET_IDS, checked=~rows)


def test_nan_does_not_pass_for_identical():
    readout, x = build(), tensor(STREAM[-1])
    logits = readout.logits(x)
    logits[2, 3] = torch.nan
    with pytest.raises(Unsupported, match="relative error nan"):
        readout.check(x, logits)


def test_same_infinite_logits_are_identical():
    bias = tensor(BIAS)
    bias[4] = -torch.inf
    readout = Readout("masked", rms_torch, tensor(W_U), bias)
    x = tensor(STREAM[-1])
    assert readout.check(x, readout.logits(x)).max() == 0
    with pytest.raises(Unsupported):
        readout.check(x, build().logits(x))


def test_check_of_no_rows_passes():
    assert build().check(tensor(STREAM[-1][:0]), torch.zeros(0, V)).shape == (0,)
