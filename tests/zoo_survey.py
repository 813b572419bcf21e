"""Measure where each zoo model keeps its residual stream and what adds up to a block's step.

Searches the hook points by value, not by name: a hook carries the stream if it holds what plain
Hugging Face calls the hidden state, and a set of hooks closes a block if it sums to post - pre.
Run `python tests/zoo_survey.py` for a table, `--write` to renew `zoo/facts.json`. Its keys:

- of a model: `logits_agree` with the plain model; `unembed_is_logits`: nothing follows the
  unembedding; `padding`: see `padding_facts`; `dead`: hooks that exist and never fire;
- of each list of blocks: `shape` and `passes` of the stream; `fires` and `dead` (last block);
  `hidden_states_are` "pre" or "post": which end of block i Hugging Face's i-th state is;
  `mid_is` per block; `patterns` per block, with whether rows sum to 1; `closes`, and `terms` per
  block: the hooks that sum to post - pre, each under all names that carry the same numbers.
"""

from __future__ import annotations

import itertools
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from zoo import ZOO, Entry, boot, random_tokens, reference

FACTS = Path(__file__).parent / "zoo" / "facts.json"
TOLERANCE = 1e-5
PADDING_TOLERANCE = 1e-4
MOST_TERMS = 3
STREAM_NAMES = ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_in", "hook_out")

Captured = dict[str, list[torch.Tensor]]


def measure(entry: Entry) -> dict[str, Any]:
    """Facts about one entry, as they are kept in `facts.json`."""
    tokens = random_tokens()
    expected = reference(entry, tokens)
    model = boot(entry)
    logits, captured = capture(model, tokens)
    lists = block_lists(model)
    return {
        "architecture": entry.architecture,
        "kind": entry.kind,
        "logits_agree": agree(logits, expected["logits"]),
        "padding": padding_facts(model, tokens, logits),
        "unembed_is_logits": agree(last(captured, "unembed.hook_out"), logits),
        "dead": sorted(
            name for name in ("hook_embed", "hook_pos_embed") if is_dead(model, captured, name)
        ),
        "lists": {
            name: list_facts(name, size, captured, states_of(name, expected, len(lists)))
            for name, size in lists.items()
        },
    }


@torch.no_grad()
def padding_facts(model: Any, tokens: torch.Tensor, logits: torch.Tensor) -> dict[str, bool]:
    """Whether the logits of real tokens survive a mask of ones, and three tokens of padding.

    The decoder of an encoder-decoder is given the padded tokens too, and no mask for them.
    """
    pad = torch.zeros_like(tokens[:, :3])
    ones, zeros = torch.ones_like(tokens), torch.zeros_like(pad)
    right, left = torch.cat([tokens, pad], 1), torch.cat([pad, tokens], 1)
    right_mask, left_mask = torch.cat([ones, zeros], 1), torch.cat([zeros, ones], 1)
    length = tokens.shape[1]
    runs = {
        "mask_of_ones": model(tokens, attention_mask=ones),
        "right": model(right)[:, :length],
        "right_masked": model(right, attention_mask=right_mask)[:, :length],
        "left_masked": model(left, attention_mask=left_mask)[:, 3:],
    }
    return {name: agree(run, logits, PADDING_TOLERANCE) for name, run in runs.items()}


def block_lists(model: Any) -> dict[str, int]:
    """Names and lengths of the bridge's own lists of blocks, in order."""
    return {
        name: len(child)
        for name, child in model._modules.items()
        if isinstance(child, torch.nn.ModuleList)
        and all(hasattr(block, "hook_in") for block in child)
    }


@torch.no_grad()
def capture(model: Any, tokens: torch.Tensor) -> tuple[torch.Tensor, Captured]:
    """Logits, and every tensor that passed each hook point under each of its names."""
    captured: Captured = {}
    points: dict[int, tuple[Any, list[torch.Tensor]]] = {}
    for name, point in model.hook_dict.items():
        _, seen = points.setdefault(id(point), (point, []))
        captured[name] = seen

    def keep(seen: list[torch.Tensor]) -> Any:
        def observe(tensor: Any, hook: Any) -> None:
            if isinstance(tensor, torch.Tensor):
                seen.append(tensor.detach().clone())

        return observe

    for point, seen in points.values():
        point.add_hook(keep(seen))
    logits = model(tokens)
    model.reset_hooks()
    return logits, captured


def last(captured: Captured, name: str) -> torch.Tensor | None:
    """The tensor of the last firing; None if the hook is absent or never fired."""
    seen = captured.get(name)
    return seen[-1] if seen else None


def agree(one: torch.Tensor | None, two: torch.Tensor | None, tolerance: float = TOLERANCE) -> bool:
    """Equal up to `tolerance` of the largest number of the second."""
    if one is None or two is None or one.shape != two.shape or not one.is_floating_point():
        return False
    return bool((one - two).abs().max() <= tolerance * two.abs().max())


def is_dead(model: Any, captured: Captured, name: str) -> bool:
    """The name exists and nothing passes there."""
    return name in captured and not captured[name]


def states_of(name: str, expected: dict[str, Any], lists: int) -> list[torch.Tensor]:
    """Hugging Face's hidden states that belong to this list of blocks; none for looped stacks."""
    if name == "encoder_blocks":
        return expected["encoder_hidden_states"]
    if name in ("blocks", "decoder_blocks"):
        return expected["hidden_states"]
    return []


def list_facts(
    name: str, size: int, captured: Captured, states: list[torch.Tensor]
) -> dict[str, Any]:
    """What one list of blocks carries, and which hooks sum to each block's step."""
    inside = [under(f"{name}.{index}.", captured) for index in range(size)]
    pre = [first_of(block, "hook_resid_pre", "hook_in") for block in inside]
    post = [first_of(block, "hook_resid_post", "hook_out") for block in inside]
    terms = [closing_terms(*block) for block in zip(inside, pre, post, strict=True)]
    sample = pre[0]
    return {
        "n_blocks": size,
        "shape": None if sample is None else list(sample.shape),
        "passes": max(len(inside[0].get(hook, [])) for hook in STREAM_NAMES),
        "fires": sorted(hook for hook in STREAM_NAMES if inside[-1].get(hook)),
        "dead": sorted(hook for hook in STREAM_NAMES if inside[-1].get(hook) == []),
        "post_is_next_pre": all(
            agree(after, before) for after, before in zip(post, pre[1:], strict=False)
        ),
        "hidden_states_are": alignment(states, pre, post),
        "mid_is": [mid_kind(*block) for block in zip(inside, pre, strict=True)],
        "patterns": [pattern_facts(block) for block in inside],
        "closes": all(found is not None for found in terms),
        "terms": terms,
    }


def under(prefix: str, captured: Captured) -> Captured:
    """Hooks of one block, without the prefix."""
    return {
        name.removeprefix(prefix): seen
        for name, seen in captured.items()
        if name.startswith(prefix)
    }


def first_of(block: Captured, *names: str) -> torch.Tensor | None:
    """Last firing of the first name that exists; None if that one is dead."""
    return next((last(block, name) for name in names if name in block), None)


def alignment(
    states: list[torch.Tensor], pre: list[torch.Tensor | None], post: list[torch.Tensor | None]
) -> str | None:
    """Whether Hugging Face's hidden_states[i] is the input or the output of block i.

    The last state is left out: it is usually taken after the final norm.
    """
    if len(states) <= len(pre) - 1 or not states:
        return None
    for label, mine in (("pre", pre), ("post", post)):
        inner = mine if label == "pre" else mine[:-1]
        if all(agree(state, tensor) for state, tensor in zip(states, inner, strict=False)):
            return label
    return None


def closing_terms(
    block: Captured, pre: torch.Tensor | None, post: torch.Tensor | None
) -> list[list[str]] | None:
    """Smallest set of hooks that sums to post - pre; each as all its equal names. None if none."""
    if pre is None or post is None:
        return None
    groups = distinct(block, pre.shape, unlike=(pre, post))
    for count in range(1, MOST_TERMS + 1):
        for chosen in itertools.combinations(groups, count):
            if agree(pre + sum(tensor for tensor, _ in chosen), post):
                return [sorted(names, key=plainness) for _, names in chosen]
    return None


def plainness(name: str) -> tuple[int, str]:
    """Sorts a block's own names before those of its parts."""
    return name.count("."), name


def distinct(
    block: Captured, shape: torch.Size, unlike: tuple[torch.Tensor, ...]
) -> list[tuple[torch.Tensor, list[str]]]:
    """Tensors of the stream's shape inside a block that differ by value, with their names."""
    groups: list[tuple[torch.Tensor, list[str]]] = []
    for name, seen in block.items():
        if not seen or seen[-1].shape != shape or any(agree(seen[-1], other) for other in unlike):
            continue
        for tensor, names in groups:
            if agree(seen[-1], tensor):
                names.append(name)
                break
        else:
            groups.append((seen[-1], [name]))
    return groups


def pattern_facts(block: Captured) -> dict[str, bool]:
    """Attention patterns that fire in a block, and whether their rows sum to 1."""
    found = {name: seen[-1] for name, seen in block.items() if seen and name.endswith("_pattern")}
    return {
        name: bool((pattern.sum(-1) - 1).abs().max() < TOLERANCE)
        for name, pattern in sorted(found.items())
    }


def mid_kind(block: Captured, pre: torch.Tensor | None) -> str | None:
    """None without a mid stream; "pre + <hook>" where it is that sum; "other" otherwise."""
    mid = last(block, "hook_resid_mid")
    if mid is None or pre is None:
        return None
    for tensor, names in distinct(block, pre.shape, unlike=(pre, mid)):
        if agree(pre + tensor, mid):
            return f"pre + {min(names, key=plainness)}"
    return "other"


def main(arguments: list[str]) -> None:
    """Print a table, and with `--write` renew the file of facts; other arguments choose entries."""
    torch.set_num_threads(1)
    chosen = [argument for argument in arguments if not argument.startswith("-")] or list(ZOO)
    facts = json.loads(FACTS.read_text()) if FACTS.exists() else {}
    begun = time.perf_counter()
    for name in chosen:
        facts[name] = measure(ZOO[name])
        for line in table_rows(name, facts[name]):
            sys.stdout.write(line + "\n")
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(f"{len(chosen)} entries in {seconds:.1f} s, peak memory {peak:.0f} MB\n")
    if "--write" in arguments:
        rows = [f"{json.dumps(name)}: {json.dumps(facts[name])}" for name in ZOO if name in facts]
        FACTS.write_text("{\n" + ",\n".join(rows) + "\n}\n")


def table_rows(name: str, facts: dict[str, Any]) -> list[str]:
    """One line for each list of blocks."""
    agreement = "" if facts["logits_agree"] else " LOGITS DIFFER"
    rows = []
    for list_name, row in facts["lists"].items():
        terms = sorted({" + ".join(names[0] for names in found or []) for found in row["terms"]})
        rows.append(
            f"{name:24s} {list_name:15s} {row['n_blocks']} {row['shape']} x{row['passes']} "
            f"hf={row['hidden_states_are']} next={row['post_is_next_pre']} "
            f"mid={sorted({str(kind) for kind in row['mid_is']})} "
            f"closes={row['closes']} {terms} dead={facts['dead'] + row['dead']}{agreement}"
        )
    return rows


if __name__ == "__main__":
    main(sys.argv[1:])
