"""Geometry of one prediction: which factor ranks the tokens, which way the loss pulls, what of the
stream the vocabulary sees.

Works on rows of residual vectors and a verified readout (`interp.models.readout`), over blocks of
rows so that `[state, row, vocab]` never exists. All numbers are of h, the vector after the model's
own final norm, and of the linear part z = W_U h + b of the logits; a soft cap or scale T comes
after z and enters the probabilities and the gradient only. Knows nothing of hooks and tables.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from interp.errors import BadInput
from interp.geometry import angle, at_least_float32, norm, ratio
from interp.measures.spectrum import SingularDirections, random_orthogonal
from interp.models.readout import ROW_BYTES, Readout

_kept: WeakKeyDictionary[Readout, dict[Any, Any]] = WeakKeyDictionary()


def prediction_statistics(
    readout: Readout,
    stream: Tensor,
    targets: Tensor,
    *,
    others: Tensor | None = None,
    k: int = 20,
    bands: int = 4,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Geometry of every state's prediction.

    Args:
        readout: a verified path from the stream to the logits.
        stream: `[state, row, d_model]`, before the final norm.
        targets: `[row]` token ids, -1 for none.
        others: `[row]` token ids that stand in for the targets in the gradient's control.
        k: how many of the most probable tokens are split and ranked.
        bands: into how many bands of equal number the singular directions are cut.
        seed: of the random orthogonal directions.
    Returns: `[state, row]` tensors by the names of the analysis `prediction_geometry`.
    """
    if stream.ndim != 3 or targets.shape != stream.shape[1:2]:
        raise BadInput(
            f"stream {tuple(stream.shape)} and targets {tuple(targets.shape)} do not match: "
            "[state, row, d_model] and [row]"
        )
    width = readout.weight.shape[1]
    if not 1 < bands <= width or k < 2:
        raise BadInput(f"bands={bands}, k={k}: allowed are 2 to {width} bands and k from 2")
    others = targets if others is None else others
    sizes = norm(readout.weight)
    states = []
    for x in stream:
        blocks = [
            _block(readout, x[rows], targets[rows], others[rows], sizes, (k, bands, seed))
            for rows in _row_blocks(readout, len(targets))
        ]
        states.append({name: torch.cat([b[name] for b in blocks]) for name in blocks[0]})
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _row_blocks(readout: Readout, rows: int) -> list[slice]:
    """Slices of so many rows that their logits stay within `ROW_BYTES`; one even of none."""
    size = max(1, ROW_BYTES // (4 * len(readout.weight)))
    return [slice(i, i + size) for i in range(0, max(rows, 1), size)]


def _directions(readout: Readout) -> SingularDirections:
    """Singular directions of W_U; kept, and worked out again when the weights change."""
    # Kept by the readout and not by the weight: tensors compare element by element, not as keys.
    kept = _kept.setdefault(readout, {})
    version = None if readout.weight.is_inference() else readout.weight._version
    if kept.get("version", ()) != version:
        directions = SingularDirections.of(readout.weight, readout.bias)
        kept |= {"version": version, "directions": directions}
    found: SingularDirections = kept["directions"]
    return found


def _random_directions(readout: Readout, seed: int) -> Tensor:
    """A random orthogonal matrix `[d_head, d_head]`, the control of the singular directions."""
    kept = _kept.setdefault(readout, {})
    if ("random", seed) not in kept:
        weight = readout.weight
        kept["random", seed] = random_orthogonal(weight.shape[1], seed).to(weight.device)
    found: Tensor = kept["random", seed]
    return found


def _block(
    readout: Readout,
    x: Tensor,
    targets: Tensor,
    others: Tensor,
    sizes: Tensor,
    options: tuple[int, int, int],
) -> dict[str, Tensor]:
    k, bands, seed = options
    h = at_least_float32(readout.normalise(x))
    z = readout.linear(h)
    rotation = _random_directions(readout, seed).to(h.dtype)
    turned = h @ rotation
    out = {"h_norm": norm(h)} | split(h, z, sizes, readout.bias, k)
    control = split(turned, readout.linear(turned), sizes, readout.bias, k)
    out |= {f"random_{n}": control[n] for n in ("logit_cosine_spearman", "cosine_share")}
    log_p = torch.log_softmax(readout.transform(z), dim=-1)
    out |= _gradients(readout, h, z, log_p, targets, others)
    spectrum = _directions(readout).to(h.device)
    out |= logit_shares(h, spectrum, bands)
    out |= truncation(readout, h, log_p, spectrum.directions, bands)
    control = truncation(readout, h, log_p, rotation, bands)
    return out | {f"random_{n}": value for n, value in control.items()}


# ---- which factor ranks the tokens -----------------------------------------------------------


def split(
    h: Tensor, z: Tensor, sizes: Tensor, bias: Tensor | None, k: int = 20
) -> dict[str, Tensor]:
    """The top-k logits as z_i = ‖w_i‖ ‖h‖ cos θ_i + b_i, and which factor puts them in order.

    Around the means n̄, c̄ of the k tokens every logit is, exactly,
    ‖h‖ (n_i − n̄)(c_i + c̄)/2 + ‖h‖ (c_i − c̄)(n_i + n̄)/2 + b_i + constant: the part of the norms,
    of the cosines and of the bias (Shapley 1953 for a product of two factors). The share of a part
    is its covariance with z over the variance of z; the three sum to 1 and may be negative.

    Args: `h [row, d]`, `z [row, vocab]` before T, `sizes [vocab]` = ‖w_i‖, `bias [vocab]`.
    Returns, each `[row]`: `norm_share`, `cosine_share`, `bias_share`; `logit_cosine_spearman` and
    `logit_norm_spearman`, rank correlations over the k tokens; `top_cosine`, cos θ of the best
    token, and `top_cosine_rank`, how many tokens of the vocabulary have a larger cosine.
    """
    best = z.topk(min(k, z.shape[-1]), dim=-1)
    n = sizes.to(z.dtype)[best.indices]
    b = torch.zeros_like(n) if bias is None else bias.to(z.dtype)[best.indices]
    length = norm(h).unsqueeze(-1)
    c = ratio(best.values - b, n * length)
    n_mean, c_mean = n.mean(-1, keepdim=True), c.mean(-1, keepdim=True)
    parts = {
        "norm_share": length * (n - n_mean) * (c + c_mean) / 2,
        "cosine_share": length * (c - c_mean) * (n + n_mean) / 2,
        "bias_share": b,
    }
    total = _centre(best.values)
    out = {
        name: ratio((_centre(p) * total).sum(-1), total.square().sum(-1))
        for name, p in parts.items()
    }
    out["logit_cosine_spearman"] = spearman(best.values, c)
    out["logit_norm_spearman"] = spearman(best.values, n)
    out["top_cosine"] = c[:, 0]
    out["top_cosine_rank"] = _rank_by_cosine(z, sizes, bias, best.indices[:, :1], length)
    return out


def _rank_by_cosine(
    z: Tensor, sizes: Tensor, bias: Tensor | None, top: Tensor, length: Tensor
) -> Tensor:
    """Number of tokens with a larger cosine than the best one `[row]`; NaN where h is zero."""
    # ‖h‖ is the same for all tokens of a row, so z / ‖w‖ has the order of the cosines.
    scaled = (z if bias is None else z - bias) / sizes.to(z.dtype)
    above = (scaled > scaled.gather(-1, top)).sum(-1).to(z.dtype)
    return torch.where(length.squeeze(-1) > 0, above, torch.nan)


def _centre(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation over the last axis, ties at their mean rank: `[..., k] -> [...]`.

    NaN where one side is constant or holds NaN.

    >>> spearman(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 9.0, 10.0])).item()
    1.0
    """
    x, y = _centre(_ranks(a)), _centre(_ranks(b))
    return ratio((x * y).sum(-1), norm(x) * norm(y)).clamp(-1, 1)


def _ranks(x: Tensor) -> Tensor:
    """Ranks from 0 over the last axis; NaN for all where one is NaN."""
    below = (x.unsqueeze(-1) > x.unsqueeze(-2)).sum(-1)
    equal = (x.unsqueeze(-1) == x.unsqueeze(-2)).sum(-1) - 1
    ranks = below.to(x.dtype) + equal.to(x.dtype) / 2
    return torch.where(x.isnan().any(-1, keepdim=True), torch.nan, ranks)


# ---- which way the loss pulls ----------------------------------------------------------------


def gradient(readout: Readout, z: Tensor, log_p: Tensor, targets: Tensor) -> Tensor:
    """∇_h(−log P(target)) = Σ_i P(i) w_i − w_target, in closed form: `[row, d]`.

    With an output transform T both terms carry its slope: Σ_i P(i) T′(z_i) w_i − T′(z_t) w_t.
    NaN without a target.

    Args: `z [row, vocab]` before T, `log_p [row, vocab]` after it, `targets [row]` (-1: none).
    """
    slope = _slope(readout, z)
    return _mean_row(readout, log_p, slope) - _target_row(readout, z, slope, targets)


def _mean_row(readout: Readout, log_p: Tensor, slope: Tensor | None) -> Tensor:
    """Σ_i P(i) T′(z_i) w_i: one product of `[row, vocab]` with W_U."""
    p = log_p.exp() if slope is None else log_p.exp() * slope
    return p @ at_least_float32(readout.weight).to(p.dtype)


def _target_row(readout: Readout, z: Tensor, slope: Tensor | None, targets: Tensor) -> Tensor:
    """T′(z_t) w_t; NaN where there is no target."""
    index = targets.clamp(min=0)
    own = at_least_float32(readout.weight[index]).to(z.dtype)
    if slope is not None:
        own = own * slope.gather(-1, index.unsqueeze(-1))
    return torch.where((targets >= 0).unsqueeze(-1), own, torch.nan)


def _slope(readout: Readout, z: Tensor) -> Tensor | None:
    """T′(z), elementwise; None where T is the identity."""
    with torch.inference_mode(False), torch.enable_grad():
        # Autograd gives the slope of any T: a soft cap's formula would miss the next model's.
        inner = z.detach().clone().requires_grad_()
        outer = readout.transform(inner)
        if outer is inner:
            return None
        (slope,) = torch.autograd.grad(outer.sum(), inner)
    return slope


def _gradients(
    readout: Readout, h: Tensor, z: Tensor, log_p: Tensor, targets: Tensor, others: Tensor
) -> dict[str, Tensor]:
    slope = _slope(readout, z)
    mean = _mean_row(readout, log_p, slope)
    # The control pulls toward another token; it has none where the true one is missing.
    others = torch.where(targets >= 0, others, -1)
    out = {}
    for prefix, tokens in (("", targets), ("random_", others)):
        pull = mean - _target_row(readout, z, slope, tokens)
        out[f"{prefix}gradient_norm"] = norm(pull)
        out[f"{prefix}gradient_angle"] = angle(pull, h)
    return out


# ---- what of the stream the vocabulary sees --------------------------------------------------


def band_edges(d: int, bands: int) -> list[tuple[int, int]]:
    """First and one past the last direction of each band, sizes as equal as can be.

    >>> band_edges(10, 4)
    [(0, 2), (2, 5), (5, 7), (7, 10)]
    """
    cuts = [d * i // bands for i in range(bands + 1)]
    return list(pairwise(cuts))


def logit_shares(h: Tensor, spectrum: SingularDirections, bands: int) -> dict[str, Tensor]:
    """Part of each band of singular directions in the spread of the logits over the vocabulary.

    `logit_share_j` = cov(z_band, z) / var(z) over the V tokens, z before T. It is worked out from
    WᵀW and the mean row without the logits. Adding the same to every logit changes no probability,
    so a direction along the mean row counts for nothing. With a bias the shares sum to
    1 − cov(b, z)/var(z), else to 1. NaN where all logits are equal.

    Args: `h [row, d]`. Returns `[row]` tensors.
    """
    # In float64: the mean row's part is taken off a much larger number.
    part = h.double() @ spectrum.directions
    mean = spectrum.mean @ spectrum.directions
    cross = spectrum.bias_cross @ spectrum.directions
    along = part * spectrum.values**2 / spectrum.n - (part @ mean).unsqueeze(-1) * mean + cross
    pieces = part * along
    variance = pieces.sum(-1) + part @ cross + spectrum.bias_variance
    return {
        f"logit_share_{j}": ratio(pieces[:, a:b].sum(-1), variance).to(h.dtype)
        for j, (a, b) in enumerate(band_edges(h.shape[-1], bands), 1)
    }


def truncation(
    readout: Readout, h: Tensor, log_p: Tensor, directions: Tensor, bands: int
) -> dict[str, Tensor]:
    """Parts of h and of the prediction that remain with the first bands of directions alone.

    Args: `h [row, d]`; `log_p [row, vocab]`, the full prediction; `directions [d, d]`, orthonormal
    columns. Returns `[row]` tensors: `h_share_j`, the share of ‖h‖² in band j (they sum to 1), and
    `kl_top_j` = KL(full ‖ first j bands kept) in nats, for j below the number of bands. The bias
    stays, and the norm is not taken again.
    """
    basis = directions.to(h.dtype)
    part = h @ basis
    squares, p = part.square(), log_p.exp()
    out = {}
    edges = band_edges(h.shape[-1], bands)
    for j, (a, b) in enumerate(edges, 1):
        out[f"h_share_{j}"] = ratio(squares[:, a:b].sum(-1), squares.sum(-1))
    for j, (_, b) in enumerate(edges[:-1], 1):
        kept = readout.linear(part[:, :b] @ basis[:, :b].T)
        log_q = torch.log_softmax(readout.transform(kept), dim=-1)
        # 0·ln 0 is 0 here, and rounding may leave a KL a little below zero.
        out[f"kl_top_{j}"] = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1).clamp(min=0)
    return out
