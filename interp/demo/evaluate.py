"""Evaluation of the demo models on held-out text, with plain Hugging Face models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from interp.demo.language import CHOICE_KINDS, Choice, Document, choices, generate
from interp.demo.tokenizer import ordinary_ids

PERIOD = 40
SEED = 1_000_000


@dataclass(frozen=True)
class Evaluation:
    """Measurements on held-out text; losses in nats per token.

    `accuracy` per kind of choice; `previous` and `induction` per layer and head; `first_half` and
    `second_half` are losses on random tokens and on their repetition; `lens` is the next-token
    loss read from each of the L+1 states.
    """

    accuracy: dict[str, float]
    previous: list[list[float]]
    induction: list[list[float]]
    first_half: float
    second_half: float
    lens: list[float]


def load(folder: Path | str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The plain model, with attention patterns available, and its tokenizer, from a folder."""
    # Other attention implementations return no patterns.
    model = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return model.eval(), tokenizer


def _pad(rows: list[list[int]], fill: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows])


def log_probs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]]
) -> Tensor:
    """Log-probability [pairs] of each continuation after its prompt."""
    end = tokenizer.bos_token_id
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    added = tokenizer([continuation for _, continuation in pairs])["input_ids"]
    ids = _pad([[end, *p, *c] for p, c in zip(prompts, added, strict=True)], end)
    with torch.no_grad():
        logits = model(ids).logits.float()
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    # Loss i is that of token i + 1, and one BOS stands in front: the losses of a continuation begin
    # at the length of its prompt.
    starts = torch.tensor([len(p) for p in prompts])[:, None]
    ends = starts + torch.tensor([len(c) for c in added])[:, None]
    position = torch.arange(losses.shape[1])
    return -(losses * ((position >= starts) & (position < ends))).sum(1)


def accuracy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, cases: list[Choice]
) -> float:
    """Share of cases in which the right continuation is the more probable one."""
    right = log_probs(model, tokenizer, [(case.prompt, case.right) for case in cases])
    wrong = log_probs(model, tokenizer, [(case.prompt, case.wrong) for case in cases])
    return float((right > wrong).double().mean())


def repeated_tokens(
    tokenizer: PreTrainedTokenizerFast, rows: int, period: int = PERIOD, seed: int = SEED
) -> Tensor:
    """`<|endoftext|>`, then random ordinary tokens and their repetition: [rows, 1 + 2 period]."""
    ordinary = torch.tensor(ordinary_ids(tokenizer))
    generator = torch.Generator().manual_seed(seed)
    half = ordinary[torch.randint(len(ordinary), (rows, period), generator=generator)]
    return torch.cat([torch.full((rows, 1), tokenizer.bos_token_id), half, half], dim=1)


def head_scores(model: PreTrainedModel, ids: Tensor, period: int) -> tuple[Tensor, Tensor]:
    """Previous-token and induction scores, each [layers, heads], on repeated tokens.

    A score is the mean attention from position t to t-1, and from t in the second half to
    t - period + 1, the token after the earlier occurrence.
    """
    with torch.no_grad():
        patterns = torch.stack(model(ids, output_attentions=True).attentions)
    previous = patterns.diagonal(-1, dim1=-2, dim2=-1)
    # The first two entries of this diagonal are queries of the first half, with nothing to repeat.
    induction = patterns.diagonal(1 - period, dim1=-2, dim2=-1)[..., 2:]
    return previous.mean((1, -1)), induction.mean((1, -1))


def halves(model: PreTrainedModel, ids: Tensor, period: int) -> tuple[float, float]:
    """Mean loss on random tokens and on their repetition.

    The first token of the repetition counts in neither, because it cannot be predicted.
    """
    with torch.no_grad():
        logits = model(ids).logits.float()
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    return float(losses[:, :period].mean()), float(losses[:, period + 1 :].mean())


def lens_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, documents: list[Document]
) -> list[float]:
    """Next-token loss with each of the L+1 states read through the final norm and unembedding."""
    end = tokenizer.bos_token_id
    rows = [[end, *ids] for ids in tokenizer([d.text for d in documents])["input_ids"]]
    ids = _pad(rows, end)
    lengths = torch.tensor([len(row) for row in rows])[:, None]
    real = torch.arange(ids.shape[1] - 1) < lengths - 1
    body = model.base_model
    norm = body.ln_f if hasattr(body, "ln_f") else body.norm
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states
        # The library has already applied the final norm to the last of its hidden states.
        normed = [norm(state) for state in states[:-1]] + [states[-1]]
        logits = [model.lm_head(state)[:, :-1][real] for state in normed]
    return [float(cross_entropy(z, ids[:, 1:][real])) for z in logits]


def evaluate(folder: Path | str, cases: int = 200, documents: int = 200) -> Evaluation:
    """All measurements on one model folder."""
    model, tokenizer = load(folder)
    ids = repeated_tokens(tokenizer, rows=50)
    previous, induction = head_scores(model, ids, PERIOD)
    first, second = halves(model, ids, PERIOD)
    return Evaluation(
        accuracy={
            kind: accuracy(model, tokenizer, choices(cases, SEED, kind)) for kind in CHOICE_KINDS
        },
        previous=[[round(x, 4) for x in row] for row in previous.tolist()],
        induction=[[round(x, 4) for x in row] for row in induction.tolist()],
        first_half=first,
        second_half=second,
        lens=lens_losses(model, tokenizer, generate(documents, SEED, split="held_out")),
    )
