"""Phantoms of the prediction: blocks that write the answer, and what the lens must read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax, rel_entr

from interp.models.hand_set import BlockWeights, Matrix, MlpWeights, hand_set
from interp.runs.phantoms.phantom import Known, Phantom, Trial, rounding, rows_known
from interp.runs.phantoms.stream import exactly

VOCABULARY, BLOCKS = 12, 4
GUESS, ANSWER = 1.0, 6.0
"""Logit of the guess that is there from the start, and of the answer once it is written."""
DECIDED = 1 + np.arange(VOCABULARY) % BLOCKS
"""First state that knows the answer, by token: 1 … 4."""
GUESSED = (np.arange(VOCABULARY) + 5) % VOCABULARY
ANSWERED = (np.arange(VOCABULARY) + 1) % VOCABULARY
# The next token is mostly the answer, sometimes not; it is never the guess.
PROMPTS = ((0, 1, 2, 3, 4, 7), (5, 6, 7, 8, 9, 10), (11, 0, 3, 4))
OPERATIONS = 4 * 2 * VOCABULARY


@cache
def answer() -> Phantom:
    """For each token one block writes the answer, over a guess that was there before."""
    eye, none = np.eye(VOCABULARY), np.zeros((VOCABULARY, VOCABULARY))
    embed = np.hstack([eye, GUESS * eye[GUESSED]])
    inner = np.vstack([eye, none])
    blocks = [
        BlockWeights(
            mlp=MlpWeights(
                inner, np.hstack([none, ANSWER * eye[ANSWERED] * np.equal(DECIDED, i + 1)[:, None]])
            )
        )
        for i in range(BLOCKS)
    ]
    return Phantom(
        "written answer",
        "A token's own dimension is not read out; it brings a guess with logit 1, and one block, "
        "the 1st to the 4th by token, writes the answer with logit 6. All else has logit 0.",
        lambda: hand_set("written answer", embed, blocks, unembed=np.vstack([none, eye])),
        PROMPTS,
    )


def answer_logits() -> Matrix:
    """Exact logits `[state, token, vocabulary]`."""
    eye, states = np.eye(VOCABULARY), np.arange(BLOCKS + 1)
    written = np.where(states[:, None] >= DECIDED, 1.0, 0.0)[:, :, None]
    return GUESS * eye[GUESSED] + ANSWER * eye[ANSWERED] * written


def _targets(rows: pd.DataFrame) -> Any:
    """The next token of each row, -1 at the end of a prompt."""
    following = {(p, i): row[i + 1] for p, row in enumerate(PROMPTS) for i in range(len(row) - 1)}
    places = zip(rows["prompt"], rows["position"], strict=True)
    return np.array([following.get((int(p), int(i)), -1) for p, i in places])


def _of_target(values: Matrix) -> Any:
    """`values [state, token, vocabulary]` at each row's target; NaN without one."""

    def found(rows: pd.DataFrame) -> Any:
        target = _targets(rows)
        layer = rows["layer"].to_numpy(int) if "layer" in rows else np.full(len(rows), BLOCKS)
        chosen = values[layer, rows["token_id"].to_numpy(int), target]
        return np.where(target < 0, np.nan, chosen)

    return found


def _of_row(values: Matrix) -> Any:
    """`values [state, token]` of each row; of the last state where the table has no layers."""

    def found(rows: pd.DataFrame) -> Any:
        layer = rows["layer"].to_numpy(int) if "layer" in rows else np.full(len(rows), BLOCKS)
        return values[layer, rows["token_id"].to_numpy(int)]

    return found


def _certainty(logits: Matrix) -> dict[str, Any]:
    """What is known of a prediction: target's log-probability and rank, entropy, top."""
    log_p = log_softmax(logits, axis=-1)
    rank = (logits[..., None, :] > logits[..., :, None]).sum(-1).astype(float)
    return {
        "log_prob": _of_target(log_p),
        "rank": _of_target(rank),
        "entropy": _of_row(-(np.exp(log_p) * log_p).sum(-1)),
        "top_prob": _of_row(np.exp(log_p).max(-1)),
    }


def next_answer() -> Trial:
    """`next_token` on `answer`."""
    logits = answer_logits()
    known = _certainty(logits) | {"logit": _of_target(logits)}
    rows = sum(map(len, PROMPTS))
    return Trial(answer(), [rows_known(rows), *_known(known)])


def _known(known: dict[str, Any]) -> list[Known]:
    return [exactly(name, values, OPERATIONS) for name, values in known.items()]


def divergences(logits: Matrix) -> dict[str, Matrix]:
    """Distances of every state's distribution to the last one's: `[state, token]`."""
    p = np.exp(log_softmax(logits, axis=-1))
    last, middle = p[-1], (p + p[-1]) / 2
    return {
        "kl_to_final": rel_entr(last, p).sum(-1),
        "js_to_final": (rel_entr(last, middle) + rel_entr(p, middle)).sum(-1) / 2,
        "tv_to_final": np.abs(p - last).sum(-1) / 2,
    }


def lens_answer() -> Trial:
    """`logit_lens` on `answer`."""
    logits = answer_logits()
    known = _certainty(logits)
    known |= {name: _of_row(values) for name, values in divergences(logits).items()}
    knows = (np.arange(BLOCKS + 1)[:, None] >= DECIDED).astype(float)
    known["agrees"] = _of_row(knows)
    top = Known(
        "top_token",
        _of_row(logits.argmax(-1).astype(float)),
        0,
        "an id",
        # Without a tokenizer the text of token 7 is "<7>".
        measured=lambda rows: rows["top_token"].str.strip("<>").astype(float),
    )
    rows = sum(map(len, PROMPTS)) * (BLOCKS + 1)
    return Trial(answer(), [rows_known(rows), *_known(known), top])


def settling_answer() -> Trial:
    """`settling` on `answer`, in bits: a token settles where its answer is written."""
    logits = answer_logits()
    log_p = log_softmax(logits, axis=-1)
    js = divergences(logits)["js_to_final"] / np.log(2)
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    change = np.diff(entropy, axis=0)
    none = np.full((1, VOCABULARY), np.nan)
    depth = DECIDED + 0 * js
    known = {
        "js": js,
        "js_min": np.vstack([none, np.minimum.accumulate(js[1:])]),
        "settled": (np.arange(BLOCKS + 1)[:, None] >= DECIDED).astype(float),
        "settling_depth": depth,
        "stays": depth,
        "late": (depth == BLOCKS).astype(float),  # ⌈0.85 · 4⌉ is 4
        "expansion": np.vstack([none, np.maximum(change, 0)]),
        "pruning": np.vstack([none, np.maximum(-change, 0)]),
    }
    rows = sum(map(len, PROMPTS)) * (BLOCKS + 1)
    return Trial(answer(), [rows_known(rows), *_known({n: _of_row(v) for n, v in known.items()})])


def attribution_answer() -> Trial:
    """`logit_attribution` on `answer`: the MLP writes all of it."""
    logits = answer_logits()
    nothing = 0 * logits[1:]
    known = {
        "stream_logit": logits[:-1],
        "stream_logit_after": logits[1:],
        "attn_logit": nothing,
        "mlp_logit": np.diff(logits, axis=0),
        "constant_logit": nothing,
    }
    rows = sum(map(len, PROMPTS)) * BLOCKS
    columns = _known({name: _of_target(values) for name, values in known.items()})
    return Trial(answer(), [rows_known(rows), *columns])


AGAINST = 9


def difference_answer() -> Trial:
    """`logit_difference` on `answer`: the next token against token 9."""
    logits = answer_logits()
    target, other = _of_target(logits), _of_row(logits[:, :, AGAINST])
    known = {
        "target_logit": target,
        "contrast_logit": other,
        "logit_diff": lambda rows: target(rows) - other(rows),
    }
    rows = sum(map(len, PROMPTS)) * (BLOCKS + 1)
    return Trial(answer(), [rows_known(rows), *_known(known)], options=(("against", AGAINST),))


# ---- read out through a LayerNorm --------------------------------------------------------------

SIZES = np.array([4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
"""Singular values of the unembedding; as many as the stream has directions across its mean."""
SHAPES = np.array(
    [[3, 1, 0, 0, 1, 0, 0, 1], [0, 2, 1, 0, 0, 1, 0, 0], [1, 0, 1, 2.5, 0, 0, 1, 3.2]]
)
PULLS = np.array([[0, 0, 2, 0, 0, 0, 1, 0], [4, 0, 0, 0, 0, 2, 0, 0.0]])
NORM_PROMPTS = ((0, 1, 2), (1, 2, 0), (2, 2))


def _basis() -> Matrix:
    """Orthonormal directions without a mean, so that a LayerNorm only changes the length."""
    width = len(SIZES) + 1
    rows = np.eye(width)[:-1] - np.eye(width)[1:]
    return np.linalg.qr(rows.T)[0].T


@cache
def normed() -> Phantom:
    """States of known direction, read out through a LayerNorm and a known unembedding."""
    basis, shapes = _basis(), np.vstack([SHAPES, np.zeros((len(SIZES) - 3, len(SIZES)))])
    unembed = basis.T * SIZES
    return Phantom(
        "read through a norm",
        "States lie across the mean direction, so that the final LayerNorm only brings them to the "
        "length √9; token i of the vocabulary reads direction i with size 4, 3.5, … 0.5.",
        lambda: hand_set(
            "read through a norm",
            shapes @ basis,
            [BlockWeights(bias=pull @ basis) for pull in PULLS],
            unembed=unembed,
            norm="LN",
        ),
        NORM_PROMPTS,
    )


def normed_directions() -> Matrix:
    """h in the directions of the unembedding, of length √9: `[state, token, direction]`."""
    states = np.cumsum([np.zeros_like(PULLS[0]), *PULLS], axis=0)[:, None] + SHAPES
    directions: Matrix = 3 * states / np.linalg.norm(states, axis=-1, keepdims=True)
    return directions


def geometry_normed() -> Trial:
    """`prediction_geometry` on `normed`: bands of two singular directions each."""
    h = normed_directions()
    logits = h * SIZES
    log_p = log_softmax(logits, axis=-1)
    p = np.exp(log_p)
    bands = [slice(2 * j, 2 * j + 2) for j in range(4)]
    parts = logits * (logits - logits.mean(-1, keepdims=True))
    variance = parts.sum(-1)
    known: dict[str, Any] = {"h_norm": np.full(h.shape[:2], 3.0)}
    top = logits.argmax(-1)[..., None]
    known["top_cosine"] = np.take_along_axis(h, top, -1)[..., 0] / 3
    above = h > np.take_along_axis(h, top, -1) + 1e-9
    known["top_cosine_rank"] = above.sum(-1).astype(float)
    for j, band in enumerate(bands, 1):
        known[f"h_share_{j}"] = (h[..., band] ** 2).sum(-1) / 9
        known[f"logit_share_{j}"] = parts[..., band].sum(-1) / variance
    for j in range(1, 4):
        kept = np.where(np.arange(len(SIZES)) < 2 * j, logits, 0.0)
        known[f"kl_top_{j}"] = rel_entr(p, np.exp(log_softmax(kept, axis=-1))).sum(-1)
    known |= _factors(h)
    tests = [exactly(n, lambda r, v=v: _at(v, r), OPERATIONS * 4) for n, v in known.items()]
    return Trial(normed(), [rows_known(3 * 8), *tests, *_pulls(h, p)])


def _factors(h: Matrix) -> dict[str, Matrix]:
    """Shares of norms and of cosines in the variance of logits that are their product.

    Half of what exchanging one factor for its mean takes away, averaged over both orders (Shapley):
    with z = n·c the part of n is (n c + n c̄ − n̄ c)/2 up to a constant.
    """
    c, n = h / 3, np.broadcast_to(SIZES, h.shape)
    c_mean, n_mean = c.mean(-1, keepdims=True), n.mean(-1, keepdims=True)
    parts = {
        "norm_share": (n * c + n * c_mean - n_mean * c) / 2,
        "cosine_share": (n * c - n * c_mean + n_mean * c) / 2,
        "bias_share": np.zeros_like(h),
    }
    z = n * c
    spread = z - z.mean(-1, keepdims=True)
    total = (spread**2).sum(-1)
    return {name: (part * spread).sum(-1) / total for name, part in parts.items()}


def _at(values: Matrix, rows: pd.DataFrame) -> Any:
    return values[rows["layer"].to_numpy(int), rows["token_id"].to_numpy(int)]


def _pulls(h: Matrix, p: Matrix) -> list[Known]:
    """Norm of the gradient and its angle to h; w_i is σ_i times an axis."""
    eye = np.eye(len(SIZES))
    pull = SIZES * (p[:, :, None, :] - eye)  # [state, token, target, direction]
    length = np.linalg.norm(pull, axis=-1)
    cosine = (pull * h[:, :, None, :]).sum(-1) / length / 3
    following = {(p, i): r[i + 1] for p, r in enumerate(NORM_PROMPTS) for i in range(len(r) - 1)}

    def found(values: Matrix) -> Any:
        def of_rows(rows: pd.DataFrame) -> Any:
            places = zip(rows["prompt"], rows["position"], strict=True)
            target = np.array([following.get((int(p), int(i)), -1) for p, i in places])
            return np.where(target < 0, np.nan, _at(values, rows)[np.arange(len(rows)), target])

        return of_rows

    angle = np.degrees(np.arccos(cosine))
    limit = rounding(180 / np.pi, 4 * OPERATIONS)
    return [
        exactly("gradient_norm", found(length), OPERATIONS * 4),
        Known("gradient_angle", found(angle), limit, f"{4 * OPERATIONS} roundings, as an angle"),
    ]


def lens_normed() -> Trial:
    """`logit_lens` on `normed`: the final norm is part of the readout."""
    logits = normed_directions() * SIZES
    log_p = log_softmax(logits, axis=-1)
    known = {
        "entropy": -(np.exp(log_p) * log_p).sum(-1),
        "top_prob": np.exp(log_p).max(-1),
        **divergences(logits),
    }
    tests = [exactly(n, lambda r, v=v: _at(v, r), OPERATIONS * 4) for n, v in known.items()]
    return Trial(normed(), tests)


TRIALS: dict[str, Sequence[Any]] = {
    "logit_lens": (lens_answer, lens_normed),
    "next_token": (next_answer,),
    "settling": (settling_answer,),
    "logit_attribution": (attribution_answer,),
    "logit_difference": (difference_answer,),
    "prediction_geometry": (geometry_normed,),
}
