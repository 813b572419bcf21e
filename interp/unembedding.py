"""What the unembedding W_U looks like: its rows beside the embedding's, and its spectrum.

Pure functions of weight matrices, with random matrices as their control; where a bridge keeps the
two matrices is the only thing known about models. W_U is held as `[vocab, d]`, a row per token.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from interp.errors import BadInput, Unsupported
from interp.geometry import at_least_float32, cosine, full_precision, norm, ratio

BLOCK_BYTES = 64 * 2**20
"""Rows of a matrix in float64 that are held at a time."""


def unembedding_of(model: Any) -> tuple[Tensor, Tensor | None]:
    """W_U as `[vocab, d_head]` and b_U `[vocab]` (None if there is none or it is zero).

    Raises `Unsupported` where the bridge has no unembedding, or one that is no matrix.
    """
    weight, bias = _weight(model, "W_U"), _weight(model, "b_U")
    if weight is None:
        raise Unsupported(
            f"{_name(model)} has no W_U: it does not end in an unembedding (an encoder without a "
            "language-model head, a vision or audio model); interp.inspect(model) says what it has"
        )
    has_bias = bias is not None and bias.ndim == 1 and bool(bias.any())
    return weight.T, bias if has_bias else None


def embedding_of(model: Any) -> Tensor | None:
    """W_E `[vocab, d]`, None where the bridge has no embedding of tokens."""
    return _weight(model, "W_E")


def _weight(model: Any, name: str) -> Tensor | None:
    try:
        value = getattr(model, name)
    except (AttributeError, NotImplementedError):
        return None
    wanted = 1 if name.startswith("b") else 2
    return value.detach() if isinstance(value, Tensor) and value.ndim == wanted else None


def _name(model: Any) -> str:
    cfg = getattr(model, "cfg", None)
    return str(getattr(cfg, "model_name", None) or type(model).__name__)


# ---- tying -----------------------------------------------------------------------------------


def tying(model: Any, *, seed: int = 0) -> dict[str, Tensor]:
    """Weight tying of a bridge, token by token: see `compare_rows`; `Unsupported` without W_U."""
    weight, bias = unembedding_of(model)
    return compare_rows(weight, embedding_of(model), bias, seed=seed)


@full_precision()
def compare_rows(
    unembedding: Tensor, embedding: Tensor | None, bias: Tensor | None = None, *, seed: int = 0
) -> dict[str, Tensor]:
    """Every token's row of W_U beside its row of W_E: a dict of `[vocab]` tensors.

    `cosine`, `difference` ‖w_U − w_E‖/‖w_E‖ and `same` (equal to the last bit) compare the two;
    `shuffled_cosine`, the control, compares w_U with the row of another token (one permutation
    drawn from `seed`). They are NaN (False) without an embedding of the same shape, and where a
    row is zero. `norm`, `embedding_norm`, `mean_cosine` and `embedding_mean_cosine` (with the mean
    row of the matrix) describe each by itself; `bias` is b_U, 0 where there is none.
    Source: Press & Wolf 2017 (weight tying).

    >>> compare_rows(torch.eye(3), 2 * torch.eye(3))["difference"].tolist()
    [0.5, 0.5, 0.5]
    """
    u = at_least_float32(unembedding)
    out = {"norm": norm(u), "mean_cosine": cosine(u, u.mean(0))}
    nothing = torch.full_like(out["norm"], torch.nan)
    e = None if embedding is None else at_least_float32(embedding).to(u.device)
    if e is None or e.shape != u.shape:
        names = ("cosine", "difference", "shuffled_cosine")
        out |= dict.fromkeys(names, nothing) | {"same": torch.zeros_like(nothing).bool()}
    else:
        generator = torch.Generator().manual_seed(seed)
        others = _derangement(len(e), generator).to(e.device)
        out |= {"cosine": cosine(u, e), "difference": ratio(norm(u - e), norm(e))}
        out |= {"shuffled_cosine": cosine(u, e[others]), "same": (u == e).all(-1)}
    known = e is not None and len(e) == len(u)
    out["embedding_norm"] = norm(e) if known and e is not None else nothing
    out["embedding_mean_cosine"] = cosine(e, e.mean(0)) if known and e is not None else nothing
    out["bias"] = torch.zeros_like(nothing) if bias is None else at_least_float32(bias)
    return out


def _derangement(n: int, generator: torch.Generator) -> Tensor:
    """A random permutation that leaves nothing in its place (if there are two or more)."""
    order = torch.randperm(n, generator=generator, device="cpu")
    out = torch.empty_like(order)
    out[order] = order.roll(1)  # one cycle through all
    return out


# ---- spectrum --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SingularDirections:
    """Singular values and directions of a matrix `[n, d]`, in float64, largest first.

    Attributes:
        values: σ `[d]`.
        directions: right singular vectors `[d, d]`, one per column: W = U Σ Vᵀ.
        mean: the mean row μ `[d]`.
        n: number of rows.
        bias_cross: covariance of the rows with the bias, over rows `[d]`; 0 without bias.
        bias_variance: variance of the bias over rows.
    """

    values: Tensor
    directions: Tensor
    mean: Tensor
    n: int
    bias_cross: Tensor
    bias_variance: float = 0.0

    @classmethod
    def of(
        cls, matrix: Tensor, bias: Tensor | None = None, *, centred: bool = False
    ) -> SingularDirections:
        """The spectrum of `matrix [n, d]`, of the rows minus their mean if `centred`.

        From the d×d product WᵀW in float64, so that U never exists: singular values below about
        1e-8 of the largest are rounding, which is less than float32 weights resolve.
        """
        gram, mean, cross = _products(matrix, bias)
        n = len(matrix)
        if centred:
            gram = gram - n * torch.outer(mean, mean)
        squares, vectors = torch.linalg.eigh(gram)
        b = gram.new_zeros(1) if bias is None else bias.double()
        return cls(
            squares.clamp(min=0).sqrt().flip(0),
            vectors.flip(1),
            torch.zeros_like(mean) if centred else mean,
            n,
            cross / n - mean * float(b.mean()),
            float(b.var(correction=0)),
        )

    def to(self, device: torch.device) -> SingularDirections:
        """The same on another device."""
        parts = (self.values, self.directions, self.mean)
        values, directions, mean = (p.to(device) for p in parts)
        cross = self.bias_cross.to(device)
        return SingularDirections(values, directions, mean, self.n, cross, self.bias_variance)

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of σ/Σσ: d for a flat spectrum, 1 for a single direction.

        Source: Roy & Vetterli 2007.
        """
        return float(torch.special.entr(self.values / self.values.sum()).sum().exp())

    @property
    def participation_ratio(self) -> float:
        """(Σσ²)² / Σσ⁴: d for a flat spectrum, 1 for a single direction."""
        squares = self.values**2
        return float(squares.sum() ** 2 / (squares**2).sum())

    @property
    def mean_cosines(self) -> Tensor:
        """|cosine| between each direction and the mean row `[d]`; NaN where that is zero."""
        return ratio((self.mean @ self.directions).abs(), norm(self.mean))


def _products(matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """WᵀW `[d, d]`, the mean row `[d]` and Wᵀb `[d]`, in float64, over blocks of rows."""
    if matrix.ndim != 2 or len(matrix) < 1:
        raise BadInput(f"a spectrum is of a matrix [n, d], not of shape {tuple(matrix.shape)}")
    # Apple's devices have no float64.
    device = matrix.device if matrix.device.type in ("cpu", "cuda") else torch.device("cpu")
    d = matrix.shape[1]
    gram = torch.zeros(d, d, dtype=torch.float64, device=device)
    total, cross = (torch.zeros(d, dtype=torch.float64, device=device) for _ in range(2))
    for rows in _blocks(*matrix.shape):
        block = matrix[rows].to(device).double()
        gram += block.T @ block
        total += block.sum(0)
        if bias is not None:
            cross += bias[rows].to(device).double() @ block
    return gram, total / len(matrix), cross


def _blocks(n: int, d: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (8 * d))
    return (slice(i, i + size) for i in range(0, n, size))


def random_singular_directions(matrix: Tensor, *, seed: int = 0) -> SingularDirections:
    """Control: the spectrum of independent normal entries, in the shape and scale of `matrix`.

    Their mean is zero and their root mean square is the matrix's, so both have the same Σσ². Its
    singular values fill the band s(√n ± √d) of Marchenko & Pastur 1967, s the scale.
    """
    n, d = matrix.shape
    blocks = list(_blocks(n, d))
    squares = sum(float(matrix[rows].double().square().sum()) for rows in blocks)
    generator = torch.Generator().manual_seed(seed)
    # Of one type whatever torch's default is: the draws of another are others.
    draw = torch.empty(n, d, dtype=torch.float32, device="cpu")
    for rows in blocks:
        draw[rows].normal_(generator=generator)
    draw *= (squares / (n * d)) ** 0.5
    return SingularDirections.of(draw)


def random_orthogonal(d: int, seed: int) -> Tensor:
    """A rotation or reflection `[d, d]` drawn uniformly (Haar), in float64.

    QR of normal entries with the signs of R's diagonal taken out (Mezzadri 2007).
    """
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(d, d, generator=generator, dtype=torch.float64, device="cpu")
    q, r = torch.linalg.qr(draw)
    signed: Tensor = q * torch.sign(torch.diagonal(r))
    return signed
