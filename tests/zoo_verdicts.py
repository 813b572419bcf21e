"""For every zoo model and analysis: right, or refused by name. There is no third case.

Right means: equal to what plain Hugging Face computes with the same weights. `python
tests/zoo_verdicts.py` prints the table and the counts; `--write` renews `docs/models.md`.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from zoo import ZOO, Entry, boot, random_tokens, reference
from zoo_lengths import BEYOND, LENGTHS, judge_lengths
from zoo_states import ATOL, Stream, difference, worst

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from interp.errors import Unsupported
from interp.geometry import angle

DOCS = Path(__file__).parent.parent / "docs" / "models.md"
RIGHT, REFUSED = "right", "refused"
LENGTHS_ASKED = "lengths"
SHORT = 7


@dataclass
class Verdict:
    """What came out for one model: per question "right", "refused" or what was wrong."""

    name: str
    architecture: str
    layout: str = ""
    answers: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)

    def wrong(self) -> dict[str, str]:
        return {q: a for q, a in self.answers.items() if a not in (RIGHT, REFUSED)}


def judge(entry: Entry) -> Verdict:
    """Measure one model and compare everything that is not refused with plain Hugging Face."""
    model = boot(entry)
    model.cfg.model_name = entry.name
    before = _hooks_on(model)  # some bridges hook themselves
    verdict = Verdict(entry.name, entry.architecture)
    try:
        anatomy = interp.inspect(model)
    except Unsupported as refused:
        for question in QUESTIONS:
            _refuse(verdict, question, str(refused))
        return verdict
    padded = [f"{name}: {fact}" for name, fact in anatomy.facts() if name.endswith("columns")]
    verdict.columns = padded
    verdict.layout = "; ".join(dict.fromkeys(s.layout for s in anatomy.stacks))
    tokens = random_tokens()
    expected = reference(entry, tokens)
    for question, ask in QUESTIONS.items():
        try:
            problem = ask(model, anatomy, tokens, expected)
            verdict.answers[question] = problem or RIGHT
        except Unsupported as refused:
            _refuse(verdict, question, str(refused))
    if _hooks_on(model) != before:
        verdict.answers["stream"] = "hooks left behind"
    return verdict


def add_lengths(verdict: Verdict, entry: Entry) -> None:
    """Judge prompts of awkward lengths as well, which takes longer than all the rest."""
    if set(verdict.answers.values()) == {REFUSED}:
        _refuse(verdict, LENGTHS_ASKED, next(iter(verdict.reasons.values())))
        return
    wrong = judge_lengths(entry)
    answer = "; ".join(f"{tried}: {what}" for tried, what in wrong.items())
    verdict.answers[LENGTHS_ASKED] = answer or RIGHT


def _hooks_on(model: Any) -> dict[str, tuple[int, int]]:
    points = model.hook_dict.items()
    return {n: (len(p.fwd_hooks), len(p._forward_hooks)) for n, p in points}


def _refuse(verdict: Verdict, question: str, reason: str) -> None:
    verdict.answers[question], verdict.reasons[question] = REFUSED, reason


def _states(model: Any, tokens: Any) -> dict[str, list[np.ndarray]]:
    """Per stack and prompt the states `[state, pos, d]`, through this library."""
    results = interp.run(model, tokens, Stream(), progress=False)
    kept = results["stream"].examples("x")
    return {stack: [items[i] for i in sorted(items)] for (stack, _), items in kept.items()}


def _stream(model: Any, anatomy: Any, tokens: torch.Tensor, expected: Mapping[str, Any]) -> str:
    """Captured states are Hugging Face's hidden states, with the known shifts."""
    return difference(_states(model, tokens), expected)


def _angles(model: Any, anatomy: Any, tokens: torch.Tensor, expected: Mapping[str, Any]) -> str:
    """Angles are those of the captured states, attention and MLP angles only with a true mid."""
    frame = interp.run(model, tokens, Rotation(), progress=False)["rotation"].frame
    for stack, states in _states(model, tokens).items():
        part = frame[frame["stack"] == stack] if stack else frame
        part = part.sort_values(["layer", "prompt", "position"])
        x = torch.from_numpy(np.concatenate(states, axis=1)).double()
        want = angle(x[:-1], x[1:]).numpy().ravel()
        if not np.allclose(part["angle"], want, atol=1e-2):
            return "angles differ from the captured states'"
    return ""


def _shares(model: Any, anatomy: Any, tokens: torch.Tensor, expected: Mapping[str, Any]) -> str:
    """Shares of the terms sum to 1, or the decomposition is refused with its error."""
    result = interp.run(model, tokens, PathLength(), progress=False)["path_length"]
    frame = result.frame
    open_stacks = [s for s in anatomy.stacks if not s.closes]
    columns = [c for c in frame if c.endswith("_share")]
    for stack in open_stacks:
        part = frame[frame["stack"] == stack.name] if stack.name else frame
        if columns and part[columns].notna().any(axis=None):
            return "shares of a decomposition that does not close"
    if len(open_stacks) == len(anatomy.stacks):
        raise Unsupported("; ".join(n for n in result.notes if "sum of named terms" in n))
    closed = (
        frame[frame["stack"].isin([s.name for s in anatomy.stacks if s.closes])]
        if ("stack" in frame)
        else frame
    )
    total = closed[columns].sum(axis=1)
    return (
        ""
        if np.allclose(total, 1, atol=1e-3)
        else f"shares sum to {total.min():.3g} … {total.max():.3g}"
    )


def _lens(model: Any, anatomy: Any, tokens: torch.Tensor, expected: Mapping[str, Any]) -> str:
    """The lens's last row is the log-probability of plain Hugging Face."""
    frame = interp.run(model, tokens, LogitLens(examples=0), progress=False)["logit_lens"].frame
    last = frame[frame["layer"] == frame["layer"].max()].sort_values(["prompt", "position"])
    log_p = expected["logits"].float().log_softmax(-1)
    fed = torch.tensor(last["token_id"].tolist()).reshape(tokens.shape)
    want = log_p[:, :-1].gather(-1, fed[:, 1:, None])[..., 0].numpy()
    got = last["log_prob"].to_numpy().reshape(tokens.shape)[:, :-1]
    return "" if np.allclose(got, want, atol=1e-3) else f"differs by {np.abs(got - want).max():.2g}"


def _attention(model: Any, anatomy: Any, tokens: torch.Tensor, expected: Mapping[str, Any]) -> str:
    """Rows are distributions, or the report says that they are not."""
    result = interp.run(model, tokens, Attention(), progress=False)["attention"]
    rows = result.frame["row_sum"]
    if rows.max() > 1 + 1e-3:
        return f"rows sum to {rows.max():.3g}"
    if rows.min() < 1 - 1e-2 and not any("do not sum to 1" in n for n in result.notes):
        return f"rows sum to {rows.min():.3g} and no note says so"
    return ""


def _padding(model: Any, anatomy: Any, tokens: torch.Tensor, expected: Mapping[str, Any]) -> str:
    """A ragged batch gives what each prompt gives alone."""
    ragged = [tokens[0].tolist(), tokens[1, :SHORT].tolist()]
    together = _states(model, ragged)
    for i, ids in enumerate(ragged):
        alone = _states(model, [ids])
        for stack, states in together.items():
            error = worst(states[i], list(alone[stack][0]))
            if error > ATOL:
                return f"batch differs from single by {error:.1g}"
    return ""


QUESTIONS: dict[str, Callable[..., str]] = {
    "stream": _stream,
    "angles": _angles,
    "shares": _shares,
    "lens": _lens,
    "attention": _attention,
    "padding": _padding,
}


def table(verdicts: list[Verdict]) -> str:
    """Markdown: one row per model, then why things are refused."""
    asked = [*QUESTIONS, LENGTHS_ASKED]
    head = ["model", "architecture", "layout", *asked]
    rows = [
        [f"`{v.name}`", v.architecture, v.layout, *(v.answers[q] for q in asked)] for v in verdicts
    ]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
    reasons = [
        f"- `{v.name}`, {', '.join(questions)}: {reason}"
        for v in verdicts
        for reason, questions in _by_reason(v).items()
    ]
    padded = [f"- `{v.name}`, {fact}" for v in verdicts for fact in v.columns]
    sections = {"Refused, and why": reasons, "Padded by the model itself": padded}
    for title, items in sections.items():
        lines += ["", f"## {title}", "", *items] if items else []
    return "\n".join(lines)


def _by_reason(verdict: Verdict) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for question, reason in verdict.reasons.items():
        text = re.sub(r"analysis '\w+' ", "", reason)
        grouped.setdefault(text, []).append(question)
    return grouped


def counts(verdicts: list[Verdict]) -> str:
    answers = Counter(
        a if a in (RIGHT, REFUSED) else "wrong" for v in verdicts for a in v.answers.values()
    )
    whole = Counter(
        "wrong" if v.wrong() else ("refused" if set(v.answers.values()) == {REFUSED} else "right")
        for v in verdicts
    )
    return (
        f"{len(verdicts)} models: {whole['right']} right in everything that is not refused, "
        f"{whole['refused']} refused in everything, {whole['wrong']} wrong; of "
        f"{sum(answers.values())} answers {answers[RIGHT]} are right, {answers[REFUSED]} refused, "
        f"{answers['wrong']} wrong"
    )


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    chosen = [a for a in arguments if not a.startswith("--")] or list(ZOO)
    verdicts = []
    for name in chosen:
        verdicts.append(judge(ZOO[name]))
        add_lengths(verdicts[-1], ZOO[name])
        print(name, verdicts[-1].wrong() or "ok", file=sys.stderr, flush=True)  # noqa: T201
    text = f"{table(verdicts)}\n\n{counts(verdicts)}\n"
    print(text)  # noqa: T201
    if "--write" in arguments:
        DOCS.write_text(PREFACE + text, encoding="utf-8")
    return int(any(v.wrong() for v in verdicts))


PREFACE = """# Models

Generated by `python tests/zoo_verdicts.py --write`: tiny models with random weights, built from
their configurations, one per architecture or layout. *right* means equal to what plain Hugging
Face computes with the same weights, to float noise: the stream against its hidden states, the
angles against that stream, the shares of attention, MLP and other terms sum to 1, the lens's last
row against its logits, attention rows are distributions (or a note says where they are not), and
a ragged batch gives what each prompt gives alone. *refused* means that an analysis says by name
what the model lacks, before the first batch. There is no third case.

The column *lengths* is about prompts of {lengths} tokens, of the longest context
(at most {beyond}) and of {beyond}. Alone, each has the states and the log-probabilities of plain
Hugging Face. In a ragged batch, and in a causal model as the beginning of a longer text, it has the
same number in every column of the default analyses. What is longer than the context is refused.

""".format(lengths=", ".join(map(str, LENGTHS)), beyond=BEYOND)

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
