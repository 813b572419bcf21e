"""Geometry of residual-stream vectors: pure tensor functions over the last axis.

Knows nothing of models, tables or batches. Half-precision input is computed in float32; float32
and float64 stay as they are. Undefined values (an angle to the zero vector, a ratio over zero)
are NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

DEGREES = 180.0 / torch.pi


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32 if its type is narrower, else unchanged.

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


def dot(u: Tensor, v: Tensor) -> Tensor:
    """Inner product over the last axis: `[..., d], [..., d] -> [...]`."""
    product: Tensor = torch.linalg.vecdot(at_least_float32(u), at_least_float32(v))
    return product


def _unit(x: Tensor) -> Tensor:
    """`x` divided by its norm; NaN for the zero vector."""
    x = at_least_float32(x)
    return x / norm(x).unsqueeze(-1)


def angle(u: Tensor, v: Tensor) -> Tensor:
    """Angle between `u` and `v` in degrees, 0 to 180: `[..., d], [..., d] -> [...]`.

    θ = 2·atan2(‖û−v̂‖, ‖û+v̂‖) rather than arccos of the cosine: in float32 the arccos of nearly
    parallel vectors is mostly exactly zero, this form keeps five digits down to 0.006°
    (Kahan, "How Futile are Mindless Assessments of Roundoff", 2006, §12). NaN where a vector
    is zero.

    >>> angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).item()
    90.0
    """
    u, v = _unit(u), _unit(v)
    return 2 * DEGREES * torch.atan2(norm(u - v), norm(u + v))


def cosine(u: Tensor, v: Tensor) -> Tensor:
    """Cosine of the angle between `u` and `v`; NaN where one is zero.

    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([-2.0, 0.0])).item()
    -1.0
    """
    return dot(_unit(u), _unit(v))


def ratio(a: Tensor, b: Tensor) -> Tensor:
    """`a / b` with NaN, not infinity, where `b` is zero."""
    return torch.where(b == 0, torch.nan, a / b)


def share(part: Tensor, whole: Tensor) -> Tensor:
    """Signed share of `part` in `whole`: (part·whole)/‖whole‖²; the shares of all terms sum to 1.

    >>> share(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 0.0])).item()
    0.5
    """
    return ratio(dot(part, whole), dot(whole, whole))


def stretch(part: Tensor, x: Tensor) -> Tensor:
    """Length of `part` along `x`, signed: (part·x)/‖x‖. NaN where `x` is zero."""
    return ratio(dot(part, x), norm(x))


def turn(part: Tensor, x: Tensor) -> Tensor:
    """Length of `part` across `x`: ‖part − (part·x̂) x̂‖, computed without subtracting squares."""
    unit = _unit(x)
    return norm(at_least_float32(part) - dot(part, unit).unsqueeze(-1) * unit)


def closing_error(before: Tensor, terms: list[Tensor], after: Tensor) -> Tensor:
    """Relative error of an additive decomposition: ‖x_l + Σ terms − x_{l+1}‖ / ‖x_{l+1}‖.

    Args: `before`, `after` and every term `[..., d]`. Returns `[...]`.
    """
    total = at_least_float32(before)
    for term in terms:
        total = total + at_least_float32(term)
    return ratio(norm(total - at_least_float32(after)), norm(after))
