"""Geometry of residual-stream vectors: pure tensor functions over the last axis.

Knows nothing of models, tables or batches. Half-precision input is computed in float32; float32
and float64 stay as they are. Undefined values (an angle to the zero vector, a ratio over zero)
are NaN. Norms are sums of squares: in float32 they are exact between 1e-18 and 1e18, below they
lose digits, beyond they are infinite and what is divided by them NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps

import torch
from torch import Tensor

DEGREES = 180.0 / torch.pi
Pairwise = Callable[[Tensor, Tensor], Tensor]

ELEMENTS = 2**16
"""Numbers of each vector's rows that a thread works on at a time: 256 kB in float32."""

ALONG = 1 / 16
"""Share of a squared length across another vector below which products alone are not trusted."""

PARALLEL = 1e-6
"""Sine of the angle below which float32 does not tell in which plane two vectors lie."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Autocast switched off, on every device for which it is on; also a decorator.

    Autocast rounds the operands of every matrix product to bfloat16 or float16, whatever their
    type: what the model computes in it is the user's choice, what is measured on that is not.

    >>> with torch.autocast("cpu", torch.bfloat16), full_precision():
    ...     (torch.ones(1, 1) @ torch.ones(1, 1)).dtype
    torch.float32
    """
    with ExitStack() as stack:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def at_least_float32(x: Tensor) -> Tensor:
    """Returns `x` in float32 if its type is narrower, else unchanged.

    >>> at_least_float32(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def norm(x: Tensor) -> Tensor:
    """Euclidean norm ‖x‖ over the last axis: `[..., d] -> [...]`.

    >>> norm(torch.tensor([3.0, 4.0])).item()
    5.0
    """
    length: Tensor = torch.linalg.vector_norm(at_least_float32(x), dim=-1)
    return length


@full_precision()
def dot(u: Tensor, v: Tensor) -> Tensor:
    """Inner product over the last axis: `[..., d], [..., d] -> [...]`."""
    product: Tensor = torch.linalg.vecdot(at_least_float32(u), at_least_float32(v))
    return product


def unit(x: Tensor) -> Tensor:
    """`x` divided by its norm; NaN where the norm is 0 or overflows, also in its square.

    >>> unit(torch.tensor([3.0, 4.0])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    x, length = at_least_float32(x), norm(x)
    # 0/0 and ∞/∞ are NaN, every other length over itself is 1.
    return x * (length / length / length).unsqueeze(-1)


def by_rows(function: Callable[..., Mapping[str, Tensor]], *vectors: Tensor) -> dict[str, Tensor]:
    """`function` of vectors of one shape `[..., d]`, a few rows at a time: `[...]` by name.

    On a CPU what lies between stays in cache, which takes a third to half of the time: a temporary
    of a whole batch costs more in fresh memory than the arithmetic that fills it.

    >>> u = torch.ones(2, 3, 4)
    >>> by_rows(lambda u, v: {"dot": dot(u, v)}, u, u)["dot"].shape
    torch.Size([2, 3])
    """
    first, elements = vectors[0], ELEMENTS * torch.get_num_threads()
    if first.device.type != "cpu" or first.numel() <= elements:
        return dict(function(*vectors))
    flat = [x.reshape(-1, x.shape[-1]) for x in vectors]
    rows, parts = max(1, elements // first.shape[-1]), []
    for i in range(0, len(flat[0]), rows):
        found = function(*(x[i : i + rows] for x in flat))
        parts.append(torch.stack(tuple(found.values())))
    whole = torch.cat(parts, dim=1).view(-1, *first.shape[:-1])
    return dict(zip(found, whole, strict=True))


def _few_rows_at_a_time(function: Pairwise) -> Pairwise:
    """`function` of two vectors through `by_rows`, where they have the same shape."""

    @wraps(function)
    def call(u: Tensor, v: Tensor) -> Tensor:
        if u.shape != v.shape:
            return function(u, v)
        return by_rows(lambda a, b: {"value": function(a, b)}, u, v)["value"]

    return call


@_few_rows_at_a_time
def angle(u: Tensor, v: Tensor) -> Tensor:
    """Angle between `u` and `v` in degrees, 0 to 180: `[..., d], [..., d] -> [...]`.

    θ = 2·atan2(‖û−v̂‖, ‖û+v̂‖) rather than arccos of the cosine: in float32 the arccos of nearly
    parallel vectors is mostly exactly zero, this form is right to 1 in 100,000 still at 0.006°
    (Kahan, "How Futile are Mindless Assessments of Roundoff", 2006, §12). NaN where a vector
    is zero.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).item()
    90.0
    """
    return unit_angle(unit(u), unit(v))


def unit_angle(u: Tensor, v: Tensor) -> Tensor:
    """`angle` between vectors of norm 1, or NaN: `[..., d], [..., d] -> [...]`, degrees."""
    return 2 * DEGREES * torch.atan2(norm(u - v), norm(u + v))


@_few_rows_at_a_time
def cosine(u: Tensor, v: Tensor) -> Tensor:
    """Cosine of the angle between `u` and `v`; NaN where one is zero.

    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 0.0])).item()
    -1.0
    """
    # Rounding may leave the product of two unit vectors just beyond 1.
    return dot(unit(u), unit(v)).clamp(-1, 1)


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """`a / b` with NaN, not infinity, where `b` is zero."""
    # An infinite share would survive every mean; NaN is counted and left out.
    return torch.where(b == 0, torch.nan, a / b)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Signed share of `part` in `whole`: (part·whole)/‖whole‖²; the shares of all terms sum to 1.

    >>> share(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0])).item()
    0.5
    """
    return ratio(dot(part, whole), dot(whole, whole))


def stretch(part: Tensor, x: Tensor) -> Tensor:
    """Length of `part` along `x`, signed: (part·x)/‖x‖. NaN where `x` is zero."""
    return dot(part, unit(x))


def turn(part: Tensor, x: Tensor) -> Tensor:
    """Length of `part` across `x`: ‖part − (part·x̂) x̂‖, computed without subtracting squares."""
    along = unit(x)
    return norm(at_least_float32(part) - dot(part, along).unsqueeze(-1) * along)


def across(x2: Tensor, part2: Tensor, cross: Tensor) -> Tensor:
    """Length of a part across `x` from inner products: √(‖part‖² − (part·x)²/‖x‖²), `[...]`.

    Args: `x2` = ‖x‖², `part2` = ‖part‖², `cross` = part·x. NaN where these do not say it to five
    digits: of a part nearly along `x`, and where a square is 0 or does not fit. Whoever holds the
    vectors fills those in (`filled`); the others need no further look at them.

    >>> across(torch.tensor([4.0]), torch.tensor([25.0]), torch.tensor([6.0])).tolist()
    [4.0]
    """
    rest = part2 - cross.square() / x2
    # A difference of squares below 1/16 of them has lost four bits; beyond that the vectors are
    # needed.
    known = (rest > ALONG * part2) & (part2 < torch.inf) & (x2 < torch.inf)
    return torch.where(known, rest, torch.nan).sqrt()


def filled(values: Tensor, function: Callable[..., Tensor], *vectors: Tensor) -> Tensor:
    """`values [...]` with `function` of the `vectors [..., d]` where they are NaN.

    >>> u, v = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> filled(torch.tensor([torch.nan]), angle, u, v).tolist()
    [90.0]
    """
    missing = values.isnan()
    if values.device.type != "cpu":  # to ask how many there are would wait for the device
        return torch.where(missing, function(*vectors), values)
    if missing.any():
        values = values.masked_scatter(missing, function(*(x[missing] for x in vectors)))
    return values


def angle_from_products(x2: Tensor, part2: Tensor, cross: Tensor, *, step: bool = False) -> Tensor:
    """Angle in degrees between `x` and a part, of a `step` between `x` and `x` + step: `[...]`.

    Arguments and NaN as in `across`. θ = atan2(across, along), with ‖x‖ added to what is along
    for a step: a small angle comes from a small step, with all its digits.

    >>> angle_from_products(*torch.tensor([1.0, 2.0, 0.0]), step=False).item()
    90.0
    """
    length = x2.sqrt()
    along = cross / length
    return DEGREES * torch.atan2(across(x2, part2, cross), length + along if step else along)


def project_out(x: Tensor, v: Tensor, amount: float = 1.0) -> Tensor:
    """`x` without `amount` of its part along `v`: x − amount·(x·v̂) v̂; 1 leaves nothing of it.

    Args: `x [..., d]`, `v` of a shape that broadcasts with it. NaN where `v` is zero.

    >>> project_out(torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])).tolist()
    [3.0, 0.0]
    """
    x, along = at_least_float32(x), unit(v)
    return x - amount * dot(x, along).unsqueeze(-1) * along


def rotate_toward(x: Tensor, v: Tensor, degrees: float | Tensor) -> Tensor:
    """`x` turned by an angle in the plane of `x` and `v`, toward `v`; its norm stays.

    x′ = ‖x‖ (cos φ û + sin φ ŵ), û = x/‖x‖, ŵ the unit part of `v` across `x`. More than the angle
    between the two goes on beyond `v`; a negative angle turns away from it. Where the plane is not
    defined (`x` zero, or along `v` within 1e-6) `x` stays as it is.

    Args: `x [..., d]`, `v` of a shape that broadcasts with it, `degrees` one angle or `[...]`.

    >>> turned = rotate_toward(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 5.0]), 90.0)
    >>> [round(value, 5) for value in turned.tolist()]
    [0.0, 2.0]
    """
    x, v = at_least_float32(x), at_least_float32(v)
    length = norm(x).unsqueeze(-1)
    # Where a norm is 0 its gradient is not defined: those rows divide by 1 and are not used.
    here = x / torch.where(length == 0, 1.0, length)
    across = v / norm(v).unsqueeze(-1)
    for _ in range(2):  # the second time takes off what rounding left of the first
        across = across - dot(across, here).unsqueeze(-1) * here
    size = norm(across).unsqueeze(-1)
    defined = (size > PARALLEL) & (length > 0)
    side = across / torch.where(defined, size, 1.0)
    cos, sin = _cos_sin(degrees)
    return torch.where(defined, length * (cos * here + sin * side), x)


def _cos_sin(degrees: float | Tensor) -> tuple[float | Tensor, float | Tensor]:
    """Cosine and sine of one angle, or of `[...]` angles as `[..., 1]`."""
    if isinstance(degrees, Tensor):
        phi = degrees.unsqueeze(-1) / DEGREES
        return phi.cos(), phi.sin()
    return math.cos(degrees / DEGREES), math.sin(degrees / DEGREES)


def closing_error(before: Tensor, terms: list[Tensor], after: Tensor) -> Tensor:
    """Relative error of an additive decomposition: ‖x_l + Σ terms − x_{l+1}‖ / ‖x_{l+1}‖.

    Args: `before`, `after` and every term `[..., d]`. Returns `[...]`.
    """
    total = at_least_float32(before)
    for term in terms:
        total = total + at_least_float32(term)
    return ratio(norm(total - at_least_float32(after)), norm(after))


def on_grid(values: Tensor, mask: Tensor) -> Tensor:
    """Values of the real tokens, `[state, row, …]` in the order of `x[mask]`, on the rectangle.

    `mask [batch, pos]`; returns `[state, batch, pos, …]`, zero under the mask.

    >>> on_grid(torch.tensor([[1.0, 2.0]]), torch.tensor([[True, False, True]])).tolist()
    [[[1.0, 0.0, 2.0]]]
    """
    # Zeros, not NaN: padding is masked later, and NaN would spread through sums over positions.
    out = values.new_zeros(len(values), *mask.shape, *values.shape[2:])
    out[:, mask] = values
    return out
