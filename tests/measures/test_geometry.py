"""Every function against float64 NumPy, mpmath or a closed form."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.geometry import (
    across,
    angle,
    angle_from_products,
    at_least_float32,
    closing_error,
    cosine,
    dot,
    filled,
    norm,
    ratio,
    share,
    stretch,
    turn,
)

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RNG = np.random.default_rng(0)


def vectors(n=64, d=48, scale=1.0):
    return RNG.standard_normal((n, d)) * scale


def tensor(x, dtype=torch.float32):
    return torch.from_numpy(np.asarray(x)).to(dtype)


def exact_degrees(u, v):
    """The angle in 50 digits, from the same half-angle form."""
    with mpmath.workdps(50):
        u, v = [mpmath.mpf(float(a)) for a in u], [mpmath.mpf(float(a)) for a in v]
        length_u, length_v = (mpmath.sqrt(sum(a * a for a in w)) for w in (u, v))
        pairs = [(a / length_u, b / length_v) for a, b in zip(u, v, strict=True)]
        apart = mpmath.sqrt(sum((a - b) ** 2 for a, b in pairs))
        together = mpmath.sqrt(sum((a + b) ** 2 for a, b in pairs))
        return float(mpmath.degrees(2 * mpmath.atan2(apart, together)))


def at_angle(degrees, d):
    """Two float64 vectors of different length at a given angle, in a random plane."""
    plane, _ = np.linalg.qr(RNG.standard_normal((d, 2)))
    theta = math.radians(degrees)
    u, v = plane[:, 0], math.cos(theta) * plane[:, 0] + math.sin(theta) * plane[:, 1]
    return 3.0 * u, 0.7 * v


# ---- angle -----------------------------------------------------------------------------------


@pytest.mark.parametrize("d", [64, 768, 1600])
def test_small_angle_in_float32_has_five_digits(d):
    # Rounding the input to float32 moves the angle itself; the reference sees the same input.
    errors = []
    for _ in range(20):
        u, v = (tensor(x) for x in at_angle(0.006, d))
        exact = exact_degrees(u, v)
        errors.append(abs(angle(u, v).item() - exact) / exact)
    # Each coordinate is rounded on its own; over many of them that averages out.
    assert np.mean(errors) < 2e-5 * max(1, (768 / d) ** 0.5)
    assert max(errors) < 5e-5 * max(1, (768 / d) ** 0.5)


def test_arccos_in_float32_would_have_none_of_them():
    pairs = [tuple(tensor(x) for x in at_angle(0.006, 768)) for _ in range(50)]
    naive = [
        torch.rad2deg(torch.arccos((u @ v / (norm(u) * norm(v))).clamp(max=1))) for u, v in pairs
    ]
    assert np.mean([a.item() == 0 for a in naive]) > 0.3
    assert min(angle(u, v).item() for u, v in pairs) > 0.0059


def test_small_angle_agrees_with_arccos_in_float64():
    u, v = at_angle(0.006, 768)
    cosine64 = u @ v / np.linalg.norm(u) / np.linalg.norm(v)
    assert angle(tensor(u), tensor(v)).item() == pytest.approx(
        np.degrees(np.arccos(cosine64)), rel=2e-4
    )


@pytest.mark.parametrize("degrees", [0.0, 0.006, 1.0, 45.0, 89.999, 90.0, 135.0, 179.99, 180.0])
def test_angle_of_a_closed_form(degrees):
    u, v = at_angle(degrees, 96)
    assert angle(tensor(u, torch.float64), tensor(v, torch.float64)).item() == pytest.approx(
        degrees, abs=1e-8
    )
    assert angle(tensor(u), tensor(v)).item() == pytest.approx(degrees, abs=2e-5)


def test_axes():
    e = torch.eye(3)
    assert angle(e[0], e[1]).item() == 90.0
    assert angle(e[0], -5 * e[0]).item() == 180.0
    assert angle(e[0], 7 * e[0]).item() == 0.0


def test_angle_is_symmetric_and_does_not_see_scale():
    u, v = tensor(vectors()), tensor(vectors())
    assert torch.equal(angle(u, v), angle(v, u))
    assert torch.allclose(angle(100 * u, 0.01 * v), angle(u, v), rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3),
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3),
)
def test_any_two_vectors_against_fifty_digits(u, v):
    if np.linalg.norm(u) < 1e-12 or np.linalg.norm(v) < 1e-12:
        return
    got = angle(tensor(u, torch.float64), tensor(v, torch.float64)).item()
    assert got == pytest.approx(exact_degrees(u, v), abs=1e-7)
    assert 0 <= got <= 180


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_as_exact_as_its_input(dtype):
    u, v = tensor(vectors(), dtype), tensor(vectors(), dtype)
    reference = [exact_degrees(a, b) for a, b in zip(u.double(), v.double(), strict=True)]
    got = angle(u, v)
    assert got.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert np.allclose(got.numpy(), reference, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
def test_huge_and_small_norms(scale):
    u, v = vectors(), vectors()
    expected = [exact_degrees(a, b) for a, b in zip(u, v, strict=True)]
    got = angle(tensor(u * scale), tensor(v / scale))
    assert np.allclose(got.numpy(), expected, rtol=1e-4)
    assert np.allclose(norm(tensor(u * scale)).numpy(), np.linalg.norm(u * scale, axis=-1))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_norm_whose_square_does_not_fit_gives_nan_and_not_a_wrong_angle(scale):
    u, ones = torch.full((4,), scale), torch.ones(4)
    for value in (angle(u, u), angle(u, ones), cosine(ones, u), turn(ones, u), stretch(ones, u)):
        assert torch.isnan(value)
    assert angle(u.double(), ones.double()).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("function", [angle, cosine, share, stretch, turn])
def test_zero_vector_is_nan_and_spoils_no_other(function):
    u, v = tensor(vectors(4)), tensor(vectors(4))
    v[1] = 0
    got = function(u, v)
    assert torch.isnan(got).tolist() == [False, True, False, False]


def test_two_zero_vectors_are_nan():
    assert torch.isnan(angle(torch.zeros(3), torch.zeros(3)))
    assert torch.isnan(share(torch.zeros(3), torch.zeros(3)))


# ---- norms, products, shares -----------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_dot_and_cosine_against_numpy(dtype):
    u, v = tensor(vectors(), dtype), tensor(vectors(), dtype)
    a, b = u.double().numpy(), v.double().numpy()
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    assert np.allclose(norm(u).numpy(), np.linalg.norm(a, axis=-1), rtol=1e-6)
    assert np.allclose(dot(u, v).numpy(), (a * b).sum(-1), atol=1e-5)
    assert np.allclose(cosine(u, v).numpy(), (a * b).sum(-1) / lengths, atol=1e-6)


def test_cosine_never_leaves_its_range():
    u = tensor(vectors(5000, 7))
    assert cosine(u, 3 * u).max() <= 1
    assert cosine(u, -3 * u).min() >= -1
    assert cosine(u, 3 * u).min() > 1 - 1e-6


def test_half_precision_is_widened_before_anything_is_summed():
    # 300² overflows in float16, and 256 + 1 is 256 in bfloat16.
    assert norm(torch.tensor([300.0, 400.0], dtype=torch.float16)).item() == 500.0
    one = torch.ones(257, dtype=torch.bfloat16)
    assert dot(one, one).item() == 257.0


def test_wide_types_stay():
    assert at_least_float32(torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    x = torch.zeros(1)
    assert at_least_float32(x) is x
    assert at_least_float32(torch.ones(1, dtype=torch.int64)).dtype == torch.float32


def test_ratio_over_zero_is_nan_also_for_zero():
    got = ratio(torch.tensor([1.0, 0.0, 3.0, -1.0]), torch.tensor([0.0, 0.0, 2.0, -0.0]))
    assert torch.isnan(got).tolist() == [True, True, False, True]
    assert got[2].item() == 1.5


def test_shares_of_all_terms_sum_to_one():
    terms = [tensor(vectors()) for _ in range(4)]
    whole = torch.stack(terms).sum(0)
    shares = torch.stack([share(t, whole) for t in terms])
    expected = [((t * whole).sum(-1) / (whole**2).sum(-1)).numpy() for t in terms]
    assert np.allclose(shares.numpy(), expected, rtol=1e-4, atol=1e-6)
    assert np.allclose(shares.sum(0).numpy(), 1, atol=1e-5)


def test_share_is_signed():
    whole = torch.tensor([2.0, 0.0])
    assert share(torch.tensor([-1.0, 9.0]), whole).item() == -0.5


# ---- stretch and turn ------------------------------------------------------------------------


def test_stretch_and_turn_against_a_projection_in_numpy():
    part, x = vectors(), vectors()
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    along = (part * unit).sum(-1)
    across = np.linalg.norm(part - along[:, None] * unit, axis=-1)
    assert np.allclose(stretch(tensor(part), tensor(x)).numpy(), along, atol=1e-5)
    assert np.allclose(turn(tensor(part), tensor(x)).numpy(), across, rtol=1e-5)


def test_stretch_and_turn_obey_pythagoras():
    part, x = tensor(vectors(), torch.float64), tensor(vectors(), torch.float64)
    total = stretch(part, x) ** 2 + turn(part, x) ** 2
    assert torch.allclose(total, norm(part) ** 2, rtol=1e-12)


def test_turn_of_a_nearly_parallel_part_keeps_its_digits():
    # As √(‖part‖² − stretch²) this is 0 in float32.
    x, across = torch.tensor([1.0, 0.0]), 1e-5
    assert turn(torch.tensor([1.0, across]), x).item() == pytest.approx(across, rel=1e-6)


def test_turn_and_angle_say_the_same_of_a_step():
    x, step = tensor(vectors(), torch.float64), tensor(vectors(scale=0.1), torch.float64)
    tangent = turn(step, x) / (norm(x) + stretch(step, x))
    assert torch.allclose(torch.rad2deg(torch.atan(tangent)), angle(x, x + step), rtol=1e-9)


# ---- from inner products alone ---------------------------------------------------------------


def products(x, part):
    return dot(x, x), dot(part, part), dot(part, x)


def steps(degrees, d=96, dtype=torch.float32):
    """States and what is added to them, such that each is turned by the given angle."""
    pairs = [at_angle(a, d) for a in degrees]
    u, v = (tensor(np.array(x), dtype) for x in zip(*pairs, strict=True))
    v = v * (3 / 0.7)  # of one length, so that what is added goes across
    return u, v, v - u


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_across_against_a_projection_in_numpy(dtype):
    x, part = vectors(500), vectors(500, scale=0.1)
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    expected = np.linalg.norm(part - (part * unit).sum(-1, keepdims=True) * unit, axis=-1)
    got = across(*products(tensor(x, dtype), tensor(part, dtype))).numpy()
    assert not np.isnan(got).any()
    assert np.allclose(got, expected, rtol=5e-6)


def test_across_says_nothing_of_what_is_nearly_along():
    x = torch.tensor([[1.0, 0.0]])
    for part in ([1.0, 0.2], [-3.0, 1e-4], [1.0, 0.0], [0.0, 0.0], [1e30, 1e30]):
        assert torch.isnan(across(*products(x, torch.tensor([part])))).all()
    assert across(*products(x, torch.tensor([[1.0, 0.5]]))).item() == pytest.approx(0.5)
    nothing = torch.zeros(1, 2)
    assert torch.isnan(across(*products(nothing, x))).all()


def test_angle_of_a_step_from_products_against_fifty_digits():
    u, _, step = steps(np.geomspace(0.001, 175, 60))
    got = angle_from_products(*products(u, step), step=True)
    told = ~torch.isnan(got)
    assert 50 < told.sum() < 60
    for a, b, found in zip(u[told], step[told], got[told], strict=True):
        exact = exact_degrees(a.double(), a.double() + b.double())
        assert found.item() == pytest.approx(exact, rel=1e-5)


def test_angle_between_two_parts_from_products_against_fifty_digits():
    u, v, _ = steps(np.linspace(16, 164, 40))
    got = angle_from_products(*products(u, v))
    expected = [exact_degrees(a, b) for a, b in zip(u, v, strict=True)]
    assert np.allclose(got.numpy(), expected, rtol=1e-5)


def test_filled_asks_only_for_what_is_missing():
    u, v = tensor(vectors(6)), tensor(vectors(6))
    values = torch.arange(6.0)
    values[[1, 4]] = torch.nan
    asked = []

    def count(a, b):
        asked.append(len(a))
        return angle(a, b)

    got = filled(values, count, u, v)
    assert asked == [2]
    assert torch.equal(got[[1, 4]], angle(u, v)[[1, 4]])
    assert got[[0, 2, 3, 5]].tolist() == [0, 2, 3, 5]
    assert torch.equal(filled(torch.zeros(6), count, u, v), torch.zeros(6))
    assert asked == [2]


# ---- closing error ---------------------------------------------------------------------------


def test_closing_error_against_numpy():
    before, a, m, after = vectors(), vectors(), vectors(), vectors()
    expected = np.linalg.norm(before + a + m - after, axis=-1) / np.linalg.norm(after, axis=-1)
    got = closing_error(tensor(before), [tensor(a), tensor(m)], tensor(after))
    assert np.allclose(got.numpy(), expected, rtol=1e-5)


def test_closing_error_of_a_sum_is_rounding_and_without_terms_is_the_step():
    before, a = tensor(vectors()), tensor(vectors())
    assert closing_error(before, [a], before + a).max() < 1e-6
    assert torch.allclose(closing_error(before, [], before + a), norm(a) / norm(before + a))


def test_closing_error_adds_half_precision_terms_in_float32():
    before = torch.full((1, 4), 256.0, dtype=torch.bfloat16)
    terms = [torch.ones(1, 4, dtype=torch.bfloat16)] * 4
    assert closing_error(before, terms, torch.full((1, 4), 260.0)).item() == 0.0
    assert torch.isnan(closing_error(before, terms, torch.zeros(1, 4)))


def test_leading_axes_are_kept():
    u, v = torch.randn(2, 3, 5, 7), torch.randn(5, 7)
    for function in (angle, cosine, dot, share, stretch, turn):
        assert function(u, v).shape == (2, 3, 5)


@pytest.mark.parametrize("function", [angle, cosine])
@pytest.mark.parametrize("elements", [1, 48, 100, 10_000])
def test_rows_at_a_time_give_the_same(monkeypatch, function, elements):
    u, v = (tensor(vectors(30)).view(5, 6, 48) for _ in range(2))
    whole = function.__wrapped__(u, v)
    monkeypatch.setattr("interp.geometry.ELEMENTS", elements)
    got = function(u, v)
    assert got.shape == (5, 6)
    torch.testing.assert_close(got, whole, rtol=1e-6, atol=1e-6)
    # Broadcasting and gradients go the same way as before.
    torch.testing.assert_close(function(u, v[:1]), function.__wrapped__(u, v[:1]))
    u.requires_grad_()
    assert torch.isfinite(torch.autograd.grad(function(u, v).sum(), u)[0]).all()
