"""Previous-token, duplicate and induction heads on repeated random tokens, and their ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import interp
from docs.findings_build.parts import (
    SIGNIFICANT,
    Measured,
    Numbers,
    clustered,
    counted,
    listed,
    side,
    table,
    told,
    verdict,
)
from docs.findings_build.sources import Sources

TITLE = "Heads that copy, and what is lost without them"
KINDS = ("previous", "duplicate", "induction")
SEQUENCES, LENGTH, SEED = 12, 20, 0
DRAWS = 19  # random sets of heads; with them, p is at least 1 / 20
LISTED = 3  # heads of a kind that the page names
PUBLISHED = {
    "source": "Olsson et al. 2209.11895 (induction), Wang et al. 2211.00593 (previous and "
    "duplicate token, in GPT-2 small)"
}
Head = tuple[int, int]


def measure(sources: Sources) -> Measured:
    """Head types on repeated sequences, and the loss with heads replaced by their mean."""
    tokens = repeated(sources.bridge)
    results = interp.run(sources.bridge, tokens, "attention", control="random-init", progress=False)
    found = interp.experiments.head_types(results)
    heads = {kind: heads_of(found, kind) for kind in KINDS}
    ablated = ablation(sources.bridge, tokens, heads["induction"]) if heads["induction"] else None
    per = found.frame.groupby(["layer", "head"]).ngroups
    numbers = {
        "published": PUBLISHED,
        "sequences": SEQUENCES,
        "length": LENGTH,
        "heads": per,
        "kinds": {kind: _kind(found, kind) for kind in KINDS},
        "untrained": {kind: len(heads_of(found.control, kind)) for kind in KINDS},
        "ablation": ablated,
    }
    return Measured(numbers, {"heads": found.plot()})


def repeated(bridge: Any) -> Tensor:
    """Random ordinary tokens, no two of a sequence alike, written twice after BOS."""
    rng = np.random.default_rng(SEED)
    words = interp.WordVectors.of(bridge).words
    known = [i for i, w in enumerate(words) if w.startswith(" ") and w.strip().isalpha()]
    rows = np.stack([rng.choice(known, LENGTH, replace=False) for _ in range(SEQUENCES)])
    bos = np.full((SEQUENCES, 1), bridge.tokenizer.bos_token_id)
    return torch.from_numpy(np.concatenate([bos, rows, rows], axis=1))


def heads_of(found: Any, kind: str) -> list[Head]:
    """Block and head of every head of a kind, the highest score first."""
    rows = found.frame[(found.frame["kind"] == kind) & found.frame["typed"]]
    rows = rows.sort_values("excess", ascending=False, kind="stable")
    return [(int(a), int(b)) for a, b in zip(rows["layer"], rows["head"], strict=True)]


def _kind(found: Any, kind: str) -> dict[str, Any]:
    rows = found.frame[(found.frame["kind"] == kind) & found.frame["typed"]]
    rows = rows.sort_values("excess", ascending=False, kind="stable")
    best = [
        {
            "block": int(r.layer),
            "head": int(r.head),
            "mean": float(r.score),
            "low": float(r.score_low),
            "high": float(r.score_high),
            "uniform": float(r.uniform),
        }
        for r in rows.head(LISTED).itertuples()
    ]
    first = int(rows["layer"].min()) if len(rows) else None
    return {"count": len(rows), "first_block": first, "best": best}


# ---- ablation ----------------------------------------------------------------------------------


def ablation(bridge: Any, tokens: Tensor, heads: Sequence[Head]) -> dict[str, Any]:
    """Loss of both copies with these heads replaced by their mean, and with as many random ones.

    Random heads are of the same blocks, and none of them is among the heads.
    """
    means = mean_outputs(bridge, tokens)
    whole = loss(bridge, tokens)
    without = loss(bridge, tokens, replaced(means, heads))
    rng = np.random.default_rng(SEED)
    n_heads = int(bridge.cfg.n_heads)
    draws = [
        loss(bridge, tokens, replaced(means, others(heads, n_heads, rng))) for _ in range(DRAWS)
    ]
    first, second = (_rise(part, whole, without, draws) for part in (0, 1))
    return {"heads": len(heads), "draws": DRAWS, "first": first, "second": second}


def _rise(part: int, whole: Tensor, without: Tensor, draws: Sequence[Tensor]) -> dict[str, Any]:
    """Rise of the loss of one copy per sequence, for the heads and for random ones; nats."""
    sequences = np.arange(whole.shape[1])
    found = (without - whole)[part].numpy()
    random = np.stack([(draw - whole)[part].numpy() for draw in draws])
    above = int((random.mean(axis=1) >= found.mean()).sum())
    return {
        "loss": clustered(whole[part], sequences),
        "found": clustered(found, sequences),
        "random": clustered(random.mean(axis=0), sequences),
        "random_most": float(random.mean(axis=1).max()),
        "more": clustered(found - random.mean(axis=0), sequences),
        "p": (1 + above) / (1 + len(draws)),
    }


def others(heads: Sequence[Head], n_heads: int, rng: Any) -> list[Head]:
    """As many heads of the same blocks, none of them among `heads`; fewer where a block is full."""
    chosen: list[Head] = []
    for block in sorted({b for b, _ in heads}):
        taken = [h for b, h in heads if b == block]
        free = [h for h in range(n_heads) if h not in taken]
        drawn = rng.choice(free, min(len(taken), len(free)), replace=False) if free else []
        chosen += [(block, int(h)) for h in drawn]
    return chosen


def mean_outputs(bridge: Any, tokens: Tensor) -> dict[int, Tensor]:
    """Mean output of every head over all sequences and positions: block -> `[head, d_head]`."""
    found: dict[int, Tensor] = {}

    def keep(block: int) -> Any:
        def hook(value: Tensor, hook: Any) -> None:  # noqa: ARG001  TransformerLens names it
            found[block] = value[:, 1:].mean(dim=(0, 1))

        return hook

    hooks = [(name(block), keep(block)) for block in range(int(bridge.cfg.n_layers))]
    with torch.no_grad():
        bridge.run_with_hooks(tokens, fwd_hooks=hooks)
    return found


def name(block: int) -> str:
    """The hook of the output of each head of a block, before they are added up."""
    return f"blocks.{block}.attn.hook_z"


def replaced(means: Mapping[int, Tensor], heads: Sequence[Head]) -> list[tuple[str, Any]]:
    """Hooks that put the mean output of each of these heads in place of its output."""

    def put(block: int, which: list[int]) -> Any:
        def hook(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001  TransformerLens names it
            value = value.clone()
            value[:, :, which] = means[block][which]
            return value

        return hook

    blocks = sorted({block for block, _ in heads})
    return [(name(b), put(b, [h for block, h in heads if block == b])) for b in blocks]


def loss(bridge: Any, tokens: Tensor, hooks: Sequence[Any] = ()) -> Tensor:
    """Mean loss of the tokens of the first and of the second copy: `[2, sequence]`, nats."""
    with torch.no_grad():
        logits = bridge.run_with_hooks(tokens, fwd_hooks=list(hooks))
    log_probs = logits[:, :-1].float().log_softmax(dim=-1)
    each = -log_probs.gather(2, tokens[:, 1:, None])[..., 0]
    length = (tokens.shape[1] - 1) // 2
    # The first token of the second copy cannot be foreseen: nothing has been repeated yet.
    return torch.stack([each[:, :length].mean(dim=1), each[:, length + 1 :].mean(dim=1)])


# ---- words -------------------------------------------------------------------------------------


def tell(n: Numbers) -> str:
    """The section, from its numbers."""
    rows = [
        (
            kind,
            f"{one['count']}",
            f"{n['untrained'][kind]}",
            listed(
                f"{b['block']}.{b['head']}: {told(b, '.2f')}, even {b['uniform']:.2f}"
                for b in one["best"]
            ),
        )
        for kind, one in n["kinds"].items()
    ]
    return "\n\n".join(
        [
            f"{n['sequences']} sequences of {n['length']} random tokens, each written twice. A "
            f"head is of a kind if it puts clearly more attention there than even attention would "
            f"(`interp heads`); {n['heads']} heads in all. *Best* are block and head with the "
            "mean attention and its interval.",
            table(("kind", "heads", "untrained copy", "best"), rows),
            verdict(_holds(n), f"all three kinds of heads exist ({n['published']['source']})."),
            _order(n),
            _ablated(n["ablation"]),
        ]
    )


def _holds(n: Numbers) -> str:
    counts = {kind: one["count"] for kind, one in n["kinds"].items()}
    there = [kind for kind, count in counts.items() if count > n["untrained"][kind]]
    missing = [kind for kind in counts if kind not in there]
    if not missing:
        return "Holds: all three kinds are there, and more of each than in the untrained copy."
    if not there:
        return "Does not hold at 135 M parameters: no kind is more frequent than untrained."
    return f"Holds for {listed(there)}; not for {listed(missing)}."


def _order(n: Numbers) -> str:
    previous, induction = (n["kinds"][k]["first_block"] for k in ("previous", "induction"))
    if previous is None or induction is None:
        return "Which kind comes first cannot be said, because one of them is missing."
    said = "before" if previous < induction else "not before"
    return (
        f"The first previous-token head is in block {previous}, {said} the first induction head "
        f"in block {induction}. Induction by composition (Olsson et al.) needs an earlier "
        "previous-token head."
    )


def _ablated(a: Numbers | None) -> str:
    if a is None:
        return "There is no induction head to ablate."
    first, second = a["first"], a["second"]
    more = {
        "above": "raises the loss of the second copy more than",
        "below": "raises the loss of the second copy less than",
        "open": "raises the loss of the second copy no more than",
    }
    # p cannot be small with few draws, so both have to agree.
    verdict_ = side(second["more"]) if second["p"] <= SIGNIFICANT else "open"
    return (
        f"**Ablation.** With the output of the {counted(a['heads'], 'induction head')} replaced by "
        f"its mean, the loss of the second copy rises by {told(second['found'], '+.2f')} nats from "
        f"{told(second['loss'], '.2f')}; with as many random heads of the same blocks by "
        f"{told(second['random'], '+.2f')} (mean of {a['draws']} draws, at most "
        f"{second['random_most']:+.2f}). The difference is {told(second['more'], '+.2f')}, rank "
        f"among the draws p = {second['p']:.2g}. So ablating these heads {more[verdict_]} ablating "
        f"random ones. The first copy, which cannot be foreseen, is the control: "
        f"{told(first['found'], '+.2f')} from {told(first['loss'], '.2f')}, with random heads "
        f"{told(first['random'], '+.2f')}. {_control_moves(first)}"
    )


def _control_moves(first: Numbers) -> str:
    """Whether the ablation also moves the loss of what cannot be foreseen."""
    return {
        "above": "So the control moves too: ablating these heads costs something where nothing is "
        "repeated yet, and that part of the rise is no loss of copying.",
        "below": "So the control moves too, the other way: where nothing is repeated yet, ablating "
        "these heads lowers the loss. What rises in the second copy is no damage to all tokens "
        "alike.",
        "open": "So the control does not move, as far as can be told.",
    }[side(first["found"])]
