"""Shares of token and position in cosines at the input and in attention scores.

Linear sums are split exactly and everything else is refused: each split is checked against the
model's own values. Each function makes one short pass of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.linalg import pinvh
from torch import Tensor

from interp._arrays import Floats
from interp.errors import BadInput, Unsupported, unknown
from interp.geometry import at_least_float32, full_precision, norm
from interp.models.anatomy import Anatomy
from interp.models.for_model import prompts_of
from interp.models.forward import call, device_of
from interp.models.hooks import record
from interp.models.probe import inspect
from interp.models.untrained import check_control, random_copy
from interp.prompts.prompts import Prompts
from interp.render.draw import figure
from interp.render.drawing import Drawing, cell_rows
from interp.render.finding import Answer
from interp.render.look import looked
from interp.render.tokens import label

MOST_NAMES = 24
PARTS = ("token_token", "token_position", "position_token", "position_position")
COLUMNS = {
    "head": "attention head; scores only",
    "part": "the part of the sum",
    "mean": "mean over the allowed pairs; unit of the sum",
    "std": "standard deviation over them; unit of the sum",
    "share": "cov(part, total) / var(total), both relative to the mean of their row; ratio, sums "
    "to 1 over the parts",
    "shuffled_share": "share of a fitted part with its rows shuffled: the control; ratio",
    "untrained_share": "share in the untrained copy; ratio",
}


@dataclass(frozen=True, eq=False)
class Split:
    """A sum of named parts over pairs of tokens, with the error of the sum.

    Attributes:
        tokens: text of the tokens of the prompt.
        parts: name -> `[n, n]`, or `[head, query, key]` for scores.
        total: the model's own values, of the same shape.
        allowed: bool `[n, n]`, the pairs that count (for scores: key not after query).
        error: largest difference between Σ parts and the total, over the largest total.
        shuffled: for a fitted part, the share that it would have by chance, `[head]`.
    """

    tokens: tuple[str, ...]
    parts: Mapping[str, Floats]
    total: Floats
    allowed: npt.NDArray[np.bool_]
    error: float
    shuffled: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def frame(self) -> pd.DataFrame:
        """One row per part (and head): `mean`, `std` and `share` over the allowed pairs.

        `share` = cov(part, total)/var(total), both relative to the mean of their row, because a
        constant per row neither orders keys nor changes a softmax; the shares sum to 1. NaN if the
        total does not vary. A fitted part also has `shuffled_share`, its control.
        """
        rows = []
        heads = self.total.shape[0] if self.total.ndim == 3 else 1
        for head in range(heads):
            total = _centred(_of(self.total, head), self.allowed)
            spread = float((total**2).sum())
            for name, part in self.parts.items():
                x = _of(part, head)
                share = (
                    float((_centred(x, self.allowed) * total).sum()) / spread if spread else None
                )
                seen = x[self.allowed]
                row = {"part": name, "mean": seen.mean(), "std": seen.std(), "share": share}
                if self.shuffled:
                    row["shuffled_share"] = self.shuffled[name][head]
                rows.append({"head": head, **row} if self.total.ndim == 3 else row)
        return pd.DataFrame(rows).astype({"share": float})

    def plot(self, *, head: int | None = None, **look: Any) -> Any:
        """A map per part and one of their sum, on one scale; of scores those of one head.

        `look`: `width`, `height`, `title`, `palette`, `legend`, as for `Finding.plot`. Raises
        `BadInput` for a head that is not there, or a head of cosines, which have none.
        """
        return looked(figure(self.drawing(head)), look)

    def drawing(self, head: int | None = None) -> Drawing:
        """Query down, key across, a panel per part and one of their sum."""
        maps = {**self.parts, "sum": self.total}
        title = "Cosines at the input"
        if self.total.ndim == 3:
            head = _known_head(0 if head is None else head, len(self.total))
            maps = {name: x[head] for name, x in maps.items()}
            title = f"Attention scores, head {head}"
        elif head is not None:
            raise BadInput(f"head={head}: these are cosines of states, which have no heads")
        sums = (
            "the last one is relative to the mean of its rows, distance is fitted, content is "
            "the rest"
            if self.shuffled
            else f"the parts add up to the last one (largest error of the sum {self.error:.1g})"
        )
        parts = [
            cell_rows(pd.DataFrame(np.where(self.allowed, x, np.nan)), name.replace("_", " – "))
            for name, x in maps.items()
        ]
        table = pd.concat(parts, ignore_index=True)
        texts = [label(token, 12) for token in self.tokens]
        places = zip(table["row"], table["column"], table["value"], strict=True)
        table["hover"] = [f"{texts[q]} ← {texts[k]}: {x:.3g}" for q, k, x in places]
        names = self.tokens if len(self.tokens) <= MOST_NAMES else range(len(self.tokens))
        return Drawing(
            "heat",
            title,
            table,
            "cosine" if self.total.ndim == 2 else "logits",
            caption=f"One scale for all maps; {sums}. White: pairs that do not count.",
            options={"rows": [str(n) for n in names], "columns": [str(n) for n in names]}
            | {"down": True, "tokens": True, "signed": True, "across": 3, "cell": (20, 13)},
        )


def _known_head(head: int, heads: int) -> int:
    if not 0 <= head < heads:
        raise BadInput(f"head {head} is not there: there are heads 0 … {heads - 1}")
    return head


def split_input(
    model: Any,
    prompt: str | Tensor,
    *,
    of: str = "cosines",
    block: int = 0,
    prepend_bos: bool | None = None,
    control: str | None = None,
) -> Answer:
    """Split cosines or attention scores into token and position, or into content and distance.

    Token and position add up in models with learned position vectors; the split by distance works
    for any model.

    Args:
        model: a bridge.
        prompt: one text.
        of: the sum to split: cosines (of the states that enter the first block), scores (of the
            first block) or distance (scores of any block).
        block: number of the block whose scores are split by distance, counted from 0.
        prepend_bos: the model's own policy unless given.
        control: also split an untrained copy of the model: random-init.

    `.frame` is that of `Split`, with `untrained_share` if there is a control.
    Raises `UnknownName` for another sum, and the errors of `split_cosines`, `split_scores` and
    `split_distance`.
    """
    kinds: dict[str, Any] = {"cosines": split_cosines, "scores": split_scores}
    kinds["distance"] = partial(split_distance, block=block)
    if of not in kinds:
        raise unknown("thing to split", of, kinds)
    if block and of != "distance":
        raise BadInput(
            f"block {block} is for the split by distance (of='distance'): {of} are those of the "
            "first block"
        )
    # The copy reads the same tokens.
    ready = read_one(model, prompt, prepend_bos)
    found = kinds[of](model, ready)
    table = found.frame
    if control is not None:
        check_control(control, model)
        table["untrained_share"] = kinds[of](random_copy(model), ready).frame["share"]
    what = "cosines" if of == "cosines" else "scores"
    return Answer(
        "split",
        table,
        _told(found, table, what),
        {"Shares": _shares(table, what), "Maps": found.drawing()},
        columns=COLUMNS,
        question=f"How much of the {what} is token or content, and how much position?",
    )


def _told(found: Split, table: pd.DataFrame, what: str) -> str:
    """The largest part against its control, and the way in which the sum was checked."""
    share = table.groupby("part", sort=False)["share"].mean()
    if share.isna().all():
        return f"the {what} do not vary, so no part has a share of them"
    top = str(share.idxmax())
    heads = ", mean over heads" if "head" in table else ""
    told = f"{top.replace('_', '–')} has the largest share of the {what}, {share[top]:.2f}{heads}"
    controls = {"shuffled_share": "with keys shuffled", "untrained_share": "in an untrained copy"}
    beside = [
        f"{table.loc[table['part'] == top, column].mean():.2f} {name}"
        for column, name in controls.items()
        if column in table
    ]
    told += f" ({'; '.join(beside)})" if beside else ""
    if found.shuffled:
        return f"{told}; distance is fitted, content is the rest"
    return f"{told}; the parts add up to the model's own {what} within {found.error:.2g} (relative)"


GREYS = {"shuffled_share": "keys shuffled within rows", "untrained_share": "an untrained copy"}


def _shares(table: pd.DataFrame, what: str) -> Drawing:
    """Share of every part of every head, with the control if there is one."""
    named = table["part"].str.replace("_", "–")
    if "head" in table:
        named = "head " + table["head"].astype(str) + " · " + named
    grey = next((column for column in GREYS if column in table), None)
    rows = pd.DataFrame({"name": named, "value": table["share"]})
    if grey:
        rows["control"] = table[grey]
    return Drawing(
        "bars",
        f"Shares of the {what}",
        rows,
        "share of what orders the keys",
        caption="cov(part, total) / var(total), both relative to the mean of their row; the "
        "shares of a total sum to 1.",
        control=f"Grey: {GREYS[grey]}." if grey else "",
        options={"control_name": GREYS[grey] if grey else "", "value_name": "share"},
    )


def _of(values: Floats, head: int) -> Floats:
    return values[head] if values.ndim == 3 else values


def _centred(x: Floats, allowed: npt.NDArray[np.bool_]) -> Floats:
    """Values relative to the mean of the allowed pairs of their row; 0 elsewhere."""
    mean = np.where(allowed, x, 0).sum(axis=1) / np.maximum(allowed.sum(axis=1), 1)
    return np.where(allowed, x - mean[:, None], 0.0)


# ---- cosines ---------------------------------------------------------------------------------


@full_precision()
def cosine_parts(tokens: Tensor, positions: Tensor) -> dict[str, Tensor]:
    """Split the cosines of z = v + p: v_i·v_j, v_i·p_j, p_i·v_j, p_i·p_j, each over ‖z_i‖‖z_j‖.

    `tokens`, `positions` [n, d] → four of `[n, n]` that sum to the cosines; NaN where z is zero.
    """
    v, p = tokens.double(), positions.double()
    length = norm(v + p)
    scale = torch.where(length == 0, torch.nan, length)
    scale = scale[:, None] * scale
    products = (v @ v.T, v @ p.T, p @ v.T, p @ p.T)
    return {name: x / scale for name, x in zip(PARTS, products, strict=True)}


@full_precision()
def split_cosines(model: Any, prompt: str | Tensor | Prompts) -> Split:
    """Cosines between the states that enter the first block, split into tokens and positions.

    Only for models in which that state is token vector + position vector (GPT-2, OPT, GPT-Neo and
    the like), which is verified. Special tokens are left out of `allowed`. Raises `Unsupported` by
    name for other models, with the measured difference.
    """
    seen = _Input.of(model, prompt)
    parts = {n: x.cpu().numpy() for n, x in cosine_parts(seen.tokens, seen.positions).items()}
    unit = torch.nn.functional.normalize(seen.state.double(), dim=-1)
    total = (unit @ unit.T).cpu().numpy()
    usual = ~seen.prompts.left_out[0]
    allowed = usual[:, None] & usual & ~np.eye(len(usual), dtype=bool)
    return _checked(seen, parts, total, allowed, "cosines")


def _checked(
    seen: _Input, parts: dict[str, Floats], total: Floats, allowed: Any, what: str
) -> Split:
    """The split, if its parts add up to the model's own values."""
    where = np.broadcast_to(allowed, total.shape)
    difference = np.abs(sum(parts.values()) - total)[where].max(initial=0.0)
    error = float(difference / max(np.abs(total[where]).max(initial=0.0), 1e-30))
    if not error <= 10 * seen.anatomy.tolerance:
        raise Unsupported(
            f"the parts do not add up to the {what} of {seen.anatomy.model} (relative difference "
            f"{error:.2g}): its first block does more than a norm and a product. The analysis "
            "position_profile shows what depends on distance in any model"
        )
    texts = tuple(seen.prompts.index()["token"].astype(str))
    return Split(texts, parts, total, allowed, error)


@dataclass(frozen=True, eq=False)
class _Input:
    """One prompt where it enters the first block: `[pos, d]` each, and scores `[head, q, k]`."""

    prompts: Prompts
    anatomy: Anatomy
    tokens: Tensor
    positions: Tensor
    state: Tensor
    scores: Tensor | None

    @classmethod
    def of(cls, model: Any, prompt: str | Tensor | Prompts) -> _Input:
        anatomy, prompts = inspect(model), read_one(model, prompt)
        stack = anatomy.stacks[0]
        hook = stack.sites["scores"][0] if any(stack.sites.get("scores", ())) else None
        names = ["hook_embed", "hook_pos_embed", stack.boundaries[0], *([hook] if hook else [])]
        points = model.hook_dict
        with record({n: points[n] for n in names if n in points}) as seen:
            run_once(model, prompts)
        if len(anatomy.stacks) > 1 or not seen.get("hook_embed") or not seen.get("hook_pos_embed"):
            raise Unsupported(_no_sum(anatomy, model, "no position vector is added to the tokens"))
        token, state = (at_least_float32(seen[n][0][0]) for n in (names[0], names[2]))
        position = at_least_float32(seen["hook_pos_embed"][0])
        position = (position[0] if position.ndim == 3 else position).expand_as(token)
        error = float((norm(token + position - state) / norm(state)).max())
        if error > anatomy.tolerance:
            raise Unsupported(_no_sum(anatomy, model, f"token + position is off by {error:.2g}"))
        scores = at_least_float32(seen[hook][0][0]) if hook and seen[hook] else None
        return cls(prompts, anatomy, token, position, state, scores)


def _no_sum(anatomy: Anatomy, model: Any, why: str) -> str:
    kind = getattr(model.cfg, "positional_embedding_type", None)
    return (
        f"the state that enters the first block of {anatomy.model} is no sum of token and position "
        f"vectors ({why}; kind of positions: {kind!r}). The split by distance works for any model "
        "(interp.experiments.split_distance, --sum distance), and so does the analysis "
        "position_profile, over a corpus"
    )


def read_one(
    model: Any, prompt: str | Tensor | Prompts, prepend_bos: bool | None = None
) -> Prompts:
    """One prompt, as `run` would read it."""
    source: Any = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(source, list | Prompts):
        source = torch.as_tensor(source).reshape(-1, source.shape[-1])
    if len(source) != 1:
        raise BadInput(f"one prompt is split at a time; these are {len(source)}")
    return prompts_of(model, inspect(model), source, prepend_bos=prepend_bos)


def run_once(model: Any, prompts: Prompts, **options: Any) -> None:
    tokens = torch.from_numpy(prompts.tokens[0].copy())[None].to(device_of(model))
    with torch.no_grad():
        call(model, tokens, **options)


# ---- scores of the first block ---------------------------------------------------------------


@full_precision()
def split_scores(model: Any, prompt: str | Tensor | Prompts) -> Split:
    """Attention scores of the first block: token and position on both sides, and biases.

    With the scale σ_i of the norm frozen at its own value, N(v + p) = N'(v) + N'(p) + β is linear,
    so that the score of a head is a sum: token–token, token–position, position–token, position–
    position (query first), and `bias`, all terms with a bias of the norm or of q and k. The sum
    is verified against the model's own scores. Rotary, ALiBi and T5-like models have no such sum:
    they raise `Unsupported`, and `split_distance` is the split for them.
    """
    seen = _Input.of(model, prompt)
    if seen.scores is None:
        raise Unsupported(f"{seen.anatomy.model} shows no attention scores in its first block")
    n = len(seen.state)
    queries, keys = _sides(model, seen)
    allowed = np.tri(n, dtype=bool)
    total = seen.scores.double().cpu().numpy()
    products = {
        (a, b): torch.einsum("qhd,khd->hqk", queries[a], keys[b]) for a in queries for b in keys
    }
    both = {
        name: products[tuple(name.split("_"))].cpu().numpy()  # type: ignore[index]
        for name in PARTS
    }
    bias = sum(x for (a, b), x in products.items() if "bias" in (a, b))
    parts = {**both, "bias": bias.cpu().numpy()}  # type: ignore[union-attr]
    scale = _scale(parts, total, allowed, queries["token"].shape[-1])
    parts = {name: np.where(allowed, x * scale, 0.0) for name, x in parts.items()}
    return _checked(seen, parts, np.where(allowed, total, 0.0), allowed, "scores")


def _scale(parts: Mapping[str, Floats], total: Floats, allowed: Any, d_head: int) -> float:
    """1/√d_head, or 1 for families that do not scale (GPT-Neo), whichever is nearer."""
    summed = sum(parts.values())
    where = np.broadcast_to(allowed, total.shape)
    scales = (float(d_head) ** -0.5, 1.0)
    errors = [float(np.abs(summed * s - total)[where].max()) for s in scales]
    return scales[errors[1] < errors[0]]


def _sides(model: Any, seen: _Input) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Queries and keys of the first block made of token, position and bias: `[pos, head, d]`."""
    block = model.blocks[0]
    try:
        w_q, w_k = block.attn.W_Q.detach().double(), block.attn.W_K.detach().double()
        b_q, b_k = (_bias(block.attn, n, w) for n, w in (("b_Q", w_q), ("b_K", w_k)))
        norm_parts = _norm_parts(block, model.cfg, seen)
    except (AttributeError, NotImplementedError) as error:
        raise Unsupported(
            f"the first block of {seen.anatomy.model} does not show its query and key weights: "
            f"{error}"
        ) from error
    w_k, b_k = (w.repeat_interleave(len(w_q) // len(w), dim=0) for w in (w_k, b_k))
    sides = []
    for weight, bias in ((w_q, b_q), (w_k, b_k)):
        side = {n: torch.einsum("pd,hde->phe", x, weight) for n, x in norm_parts.items()}
        side["bias"] = side["bias"] + bias
        sides.append(side)
    return sides[0], sides[1]


def _bias(attn: Any, name: str, weight: Tensor) -> Tensor:
    bias = getattr(attn, name, None)
    if not isinstance(bias, Tensor):
        return weight.new_zeros(weight.shape[0], weight.shape[2])
    return bias.detach().double()


def _norm_parts(block: Any, cfg: Any, seen: _Input) -> dict[str, Tensor]:
    """γ ⊙ centred part / σ of tokens and positions with σ frozen, and β: `[pos, d]` each."""
    weight = getattr(block.ln1, "weight", None)
    bias = getattr(block.ln1, "bias", None)
    x = seen.state.double()
    gain = weight.detach().double() if isinstance(weight, Tensor) else torch.ones_like(x[0])
    shift = bias.detach().double() if isinstance(bias, Tensor) else torch.zeros_like(x[0])
    scale = (x.var(-1, unbiased=False, keepdim=True) + float(cfg.eps)).sqrt()

    def linear(part: Tensor) -> Tensor:
        part = part.double()
        return gain * (part - part.mean(-1, keepdim=True)) / scale

    return {
        "token": linear(seen.tokens),
        "position": linear(seen.positions),
        "bias": shift.expand_as(x),
    }


# ---- scores of any block: distance and content ------------------------------------------------


@full_precision()
def split_distance(model: Any, prompt: str | Tensor | Prompts, block: int = 0) -> Split:
    """Attention scores of a block: the part that depends on i − j only, and the content.

    s_ij = r_i + f(i − j) + content: r_i, which a softmax ignores, and f are fitted by least squares
    over the pairs of the prompt, for each head alone; `total` is s relative to the mean of its
    row, `distance` is f, with a mean of 0 over the distances that occur, and `content` is the rest.
    A bias that depends on i − j only (ALiBi, T5) is wholly in f, together with the part of q·k
    that follows the distance; for rotary and learned positions f is the best such part.

    f has one parameter per distance, so it fits part of anything: `shuffled_share` is its expected
    share if the keys of every row were shuffled, in closed form. It approaches 1 for short
    prompts. Special tokens and pairs that no head may attend to are left out. If a model shows its
    scores after the softmax only, the log of the pattern is used, which differs by a constant per
    row. For an encoder–decoder model it is the encoder.

    Args:
        model: a bridge.
        prompt: one text, or its tokens.
        block: counted from 0.

    Raises `Unsupported` if the block has no attention pattern that sums to 1 or less, `BadInput`
    for a block that is not there or a prompt of fewer than four ordinary tokens.
    """
    prompts, scores, seen = _block_scores(model, prompt, block)
    usual = ~prompts.left_out[0]
    if usual.sum() < 4:
        raise BadInput(f"{usual.sum()} ordinary tokens; a split by distance needs 4 or more")
    allowed = usual[:, None] & usual & seen
    scores = np.where(allowed, scores, 0.0)
    if not np.isfinite(scores).all():
        raise Unsupported(
            f"some heads of block {block} give pairs of this prompt a weight of 0 in the pattern, "
            "and the scores are computed as its log. Try a shorter prompt"
        )
    total = np.stack([_centred(head, allowed) for head in scores])
    distance, chance = _by_distance(total, allowed)
    parts = {"distance": distance, "content": total - distance}
    texts = tuple(prompts.index()["token"].astype(str))
    return Split(texts, parts, total, allowed, 0.0, {"distance": chance, "content": 1 - chance})


def _by_distance(total: Floats, allowed: npt.NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """f(i − j) at its pairs `[head, n, n]`, and its expected share of shuffled rows `[head]`.

    x, the scores, are relative to the mean of their row. With D the pairs by distances, less the
    means of their rows too, which takes r_i out (Frisch & Waugh 1933), f = (DᵀD)⁺ Dᵀx. A row of
    n_i pairs has every distance at most once, so that its part of DᵀD is G_i = diag(b_i) −
    b_i b_iᵀ/n_i, b_i saying which. Shuffled, x_i has the covariance ‖x_i‖²/(n_i − 1)
    (1 − 11ᵀ/n_i), so that xᵀD (DᵀD)⁺ Dᵀx is on average Σ_i ‖x_i‖²/(n_i − 1) tr((DᵀD)⁺ G_i).
    """
    place = np.subtract.outer(np.arange(len(allowed)), np.arange(len(allowed)))
    distances, place = np.unique(place[allowed], return_inverse=True)
    row = np.nonzero(allowed)[0]
    b = np.zeros((len(allowed), len(distances)))
    b[row, place] = 1
    n = np.maximum(b.sum(axis=1), 1)
    inverse = pinvh(np.diag(b.sum(axis=0)) - (b / n[:, None]).T @ b, rtol=1e-9)
    sums = np.stack([np.bincount(place, head[allowed], len(distances)) for head in total])
    f = sums @ inverse
    out = np.zeros_like(total)
    out[:, allowed] = (f - f.mean(axis=1, keepdims=True))[:, place]
    traces = b @ np.diag(inverse) - ((b @ inverse) * b).sum(axis=1) / n
    spread = (total**2).sum(axis=2)
    every = spread.sum(axis=1)
    return out, (spread / np.maximum(n - 1, 1)) @ traces / np.where(every > 0, every, np.nan)


def _block_scores(
    model: Any, prompt: str | Tensor | Prompts, block: int
) -> tuple[Prompts, Floats, npt.NDArray[np.bool_]]:
    """Scores `[head, query, key]` up to a constant per row, and which pairs any head sees."""
    anatomy, prompts = inspect(model), read_one(model, prompt)
    stack = anatomy.stacks[0]
    if not 0 <= block < stack.n_blocks:
        raise BadInput(f"block {block} of {anatomy.model}: it has 0 … {stack.n_blocks - 1}")
    sites = ("pattern", "scores") if stack.scores_pre_softmax else ("pattern",)
    hooks = [stack.sites.get(site, (None,) * stack.n_blocks)[block] for site in sites]
    with record({name: model.hook_dict[name] for name in hooks if name}) as seen:
        run_once(model, prompts)
    found = [at_least_float32(seen[name][0][0]).double() for name in hooks if name and seen[name]]
    n = len(prompts.tokens[0])
    if len(found) < len(sites) or found[0].shape[-2:] != (n, n) or not _is_pattern(found[0]):
        others = [i for i, name in enumerate(stack.sites.get("pattern", ())) if name and i != block]
        raise Unsupported(
            f"block {block} of {anatomy.model} shows no attention pattern of one row per query "
            "that sums to 1 or less, so there are no scores to split"
            + (f"; of these blocks there is a pattern: {others}" if others and not found else "")
        )
    scores = found[1] if len(found) == 2 else found[0].log()
    return prompts, scores.cpu().numpy(), (found[0] > 0).any(dim=0).cpu().numpy()


def _is_pattern(x: Tensor) -> bool:
    """True for rows of weights that sum to 1 or less."""
    # Less than 1 is allowed: an attention sink takes a part of the row, which shifts the log of
    # the others by one constant.
    sums = x.sum(-1)
    return bool((x >= 0).all() and (sums > 0).all() and (sums < 1 + 1e-2).all())
