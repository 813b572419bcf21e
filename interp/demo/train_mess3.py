"""Training of the embedded model `mess3` on sequences of the process `interp.demo.mess3`."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from interp.demo.mess3 import (
    ALPHA,
    END,
    LENGTH,
    LETTERS,
    START,
    STAY,
    beliefs,
    next_letter,
    sequences,
    tokens,
)

log = logging.getLogger(__name__)

ROWS, STEPS = 256, 3000
RATE = 3e-3


def build() -> GPT2LMHeadModel:
    """An untrained model: 4 blocks of width 64, as in Shai et al."""
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(LETTERS) + 1,
            n_positions=LENGTH + 1,
            n_embd=64,
            n_layer=4,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=0.1,
            bos_token_id=END,
            eos_token_id=END,
            pad_token_id=END,
        )
    )


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each letter; letters are separated by spaces."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate((*LETTERS, START))}
    core = Tokenizer(models.WordLevel(vocabulary, START))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), START)
    return PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=LENGTH + 1, **special)


def fit(model: GPT2LMHeadModel, seed: int, steps: int) -> None:
    """Train on fresh sequences of the process; the rate falls along a cosine."""
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        share = min(1.0, (step + 1) / 100) * (0.01 + 0.99 * math.cos(math.pi * step / 2 / steps))
        for group in optimizer.param_groups:
            group["lr"] = RATE * share
        # Seeds of their own, which the sequences of an evaluation do not have.
        ids = torch.from_numpy(tokens(sequences(ROWS, LENGTH, seed * 1_000_000 + step)))
        logits = model(ids[:, :-1]).logits
        loss = cross_entropy(logits.transpose(1, 2), ids[:, 1:])
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == steps - 1:
            log.info("mess3 %d: %.4f", step, loss.item())


def train(out: Path, seed: int = 0, steps: int | None = None) -> Path:
    """Train the model and save it, with its tokenizer and its model card, in `out/mess3`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    started = time.process_time()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model = build().train()
    fit(model, seed, STEPS if steps is None else steps)
    model.eval()
    folder = out / "mess3"
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)
    minutes = (time.process_time() - started) / 60
    (folder / "README.md").write_text(card(model, f"seed {seed}, {minutes:.1f} minutes"))
    return folder


@torch.no_grad()
def loss_above_optimum(model: GPT2LMHeadModel, rows: int = 4000) -> tuple[float, float]:
    """Loss on new sequences and what Bayes' rule leaves of it, in nats per letter."""
    letters = sequences(rows, LENGTH, seed=2**40)
    ids = torch.from_numpy(tokens(letters))
    loss = cross_entropy(model(ids[:, :-1]).logits.transpose(1, 2), ids[:, 1:])
    best = next_letter(beliefs(letters)[:, :-1])
    chosen = np.take_along_axis(best, letters[:, :, None], axis=-1)
    return float(loss), float(-np.log(chosen).mean())


def card(model: GPT2LMHeadModel, run: str) -> str:
    """The model card: what it is, how it was made, and how near it is to Bayes' rule."""
    loss, best = loss_above_optimum(model)
    config, size = model.config, sum(weight.numel() for weight in model.parameters())
    return (
        f"# mess3\n\n`GPT2LMHeadModel`: {config.n_layer} blocks, width {config.n_embd}, "
        f"{config.n_head} heads, context {config.n_positions}, vocabulary {config.vocab_size}, "
        f"tied unembedding, {size:,} parameters in float32.\n\n"
        f"Trained from scratch on sequences of the hidden Markov process Mess3 (α {ALPHA}, "
        f"x {STAY}), {LENGTH} letters after `{START}`. It knows that process and no language.\n\n"
        f"Made by `python -m interp.demo.train --model mess3`: {run} of one CPU core.\n\n"
        f"Loss on new sequences {loss:.4f}, of exact Bayes beliefs {best:.4f} nats per letter.\n"
    )
