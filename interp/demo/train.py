"""Trains the embedded models from a seed: `python -m interp.demo.train --out DIR`.

Two kinds of rows, each of 128 tokens that begin with `<|endoftext|>`: documents of the demo
language packed one after another, and uniformly random tokens in a period that repeats. The
second kind is what previous-token and induction heads are for.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from interp.demo.evaluate import evaluate
from interp.demo.language import generate
from interp.demo.tokenizer import CONTEXT, VOCABULARY, ordinary_ids, train_tokenizer

log = logging.getLogger(__name__)

ROWS = 32
RANDOM_ROWS = 12
WARM_UP = 100
STEPS = {"demo": 3000, "demo-llama": 4000}
LEARNING_RATE = {"demo": 2e-3, "demo-llama": 3e-3}


def build(name: str, end: int) -> PreTrainedModel:
    """An untrained model of the named shape; `end` is the id of `<|endoftext|>`."""
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    if name == "demo":
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=CONTEXT,
                n_embd=128,
                n_layer=6,
                n_head=4,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                **special,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            **special,
        )
    )


def document_rows(tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[list[int]]:
    """Rows of packed documents; what does not fit at the end of a row is dropped."""
    end = tokenizer.bos_token_id
    row: list[int] = []
    for part in count():
        texts = [document.text for document in generate(2_000, seed * 100_000 + part)]
        for ids in tokenizer(texts)["input_ids"]:
            row += [end, *ids]
            if len(row) >= CONTEXT:
                yield row[:CONTEXT]
                row = []


def random_rows(ordinary: Tensor, end: int, longest: int, generator: torch.Generator) -> Tensor:
    """Random tokens [12, 128], each row repeating with its own period of 4 to `longest`."""
    out = torch.full((RANDOM_ROWS, CONTEXT), end)
    for row in out:
        period = int(torch.randint(4, longest + 1, (), generator=generator))
        picked = torch.randint(len(ordinary), (period,), generator=generator)
        row[1:] = ordinary[picked].repeat(CONTEXT // period + 1)[: CONTEXT - 1]
    return out


def batches(tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> Iterator[Tensor]:
    """Endless batches of token ids [32, 128].

    Periods are short at first and reach 63 after half of the steps: in the same number of steps
    with all periods from the start no induction head had formed.
    """
    generator = torch.Generator().manual_seed(seed)
    ordinary = torch.tensor(ordinary_ids(tokenizer))
    documents = document_rows(tokenizer, seed)
    for step in count():
        longest = 12 + int(51 * min(1.0, 2 * step / steps))
        packed = torch.tensor(list(islice(documents, ROWS - RANDOM_ROWS)))
        repeated = random_rows(ordinary, tokenizer.bos_token_id, longest, generator)
        yield torch.cat([packed, repeated])


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: a linear rise, then a cosine down to a twentieth."""
    rise = min(1.0, (step + 1) / WARM_UP)
    return rise * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def fit(model: PreTrainedModel, data: Iterator[Tensor], steps: int, learning_rate: float) -> None:
    """Train in place with AdamW."""
    optimizer = torch.optim.AdamW(
        model.parameters(), learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    model.train()
    for step, ids in enumerate(islice(data, steps)):
        logits = model(ids[:, :-1]).logits
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), ids[:, 1:], reduction="none"
        )
        torch.autograd.backward(losses.mean())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            documents, repeated = losses[:-RANDOM_ROWS].mean(), losses[-RANDOM_ROWS:].mean()
            log.info("step %d: documents %.3f, random %.3f", step, documents, repeated)
    model.eval()


def train(name: str, out: Path, seed: int = 0, steps: int | None = None) -> Path:
    """Train one model and save it, with its tokenizer and model card, in `out/name`."""
    started = time.monotonic()
    steps = STEPS[name] if steps is None else steps
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    model = build(name, tokenizer.bos_token_id)
    fit(model, batches(tokenizer, seed, steps), steps, LEARNING_RATE[name])
    folder = out / name
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    log.info("%s: %.1f minutes", name, (time.monotonic() - started) / 60)
    log.info(json.dumps(asdict(evaluate(folder)), indent=1))
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder to write to")
    parser.add_argument("--model", choices=[*STEPS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="fewer for a quick look")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in STEPS if chosen.model == "all" else [chosen.model]:
        train(name, chosen.out, chosen.seed, chosen.steps)


if __name__ == "__main__":
    main()
