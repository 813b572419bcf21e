"""The hidden Markov process Mess3: its sequences, its exact beliefs, and a model trained on it.

Three hidden states and three letters. An observer who knows the process and has read some letters
holds a belief: the probability of each hidden state. Bayes' rule gives it exactly, so that what a
model of the sequences ought to know is known here in closed form.

Sources: Marzen & Crutchfield, "Nearly maximally predictive features and their dimensions" (2017),
for the process; Shai et al., "Transformers represent belief state geometry in their residual
stream" (2405.15943), for the question.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

LETTERS = ("A", "B", "C")
START = "<|endoftext|>"
END = len(LETTERS)
"""Id of `START`, which stands in front of every sequence."""
LENGTH = 10
"""Letters of a sequence, as in Shai et al."""
ALPHA, STAY = 0.85, 0.05
"""How much a letter tells of the state, and the probability of each change of state."""
ROWS, STEPS = 256, 3000
RATE = 3e-3

Floats = NDArray[np.float64]


def transitions(alpha: float = ALPHA, x: float = STAY) -> Floats:
    """T[o, i, j] = P(letter o, next state j | state i): `[3, 3, 3]`.

    The next state is another one with probability x each; the letter is that of the next state
    with probability α, either other letter with (1 − α)/2.

    >>> transitions().sum(axis=(0, 2)).round(12).tolist()
    [1.0, 1.0, 1.0]
    """
    moves = np.full((3, 3), x) + (1 - 3 * x) * np.eye(3)
    letters = np.full((3, 3), (1 - alpha) / 2) + (alpha - (1 - alpha) / 2) * np.eye(3)
    # [i, j] · [j, o], the letter first.
    joint: Floats = np.einsum("ij,jo->oij", moves, letters)
    return joint


def beliefs(letters: NDArray[np.int64], matrices: Floats | None = None) -> Floats:
    """P(state | letters read so far): letters `[row, n] -> [row, n + 1, 3]`, the prior first.

    Bayes' rule: b ↦ b T[o] / (b T[o] 1). The prior is the stationary distribution, 1/3 each.
    """
    matrices = transitions() if matrices is None else matrices
    out = np.empty((len(letters), letters.shape[1] + 1, 3))
    out[:, 0] = 1 / 3
    for i in range(letters.shape[1]):
        joint = np.einsum("ri,rij->rj", out[:, i], matrices[letters[:, i]])
        out[:, i + 1] = joint / joint.sum(axis=1, keepdims=True)
    return out


def next_letter(belief: Floats, matrices: Floats | None = None) -> Floats:
    """P(next letter | belief): `[..., 3] -> [..., 3]`, which no model can better."""
    matrices = transitions() if matrices is None else matrices
    chances: Floats = belief @ matrices.sum(axis=2).T
    return chances


def sequences(rows: int, length: int, seed: int) -> NDArray[np.int64]:
    """Letters `[rows, length]` drawn from the process in its stationary state."""
    random, table = np.random.default_rng(seed), transitions()
    # From state i: the nine pairs (letter, next state) and their cumulative probabilities.
    bounds = table.transpose(1, 0, 2).reshape(3, 9).cumsum(axis=1)
    state = random.integers(3, size=rows)
    out = np.empty((rows, length), dtype=np.int64)
    for i in range(length):
        pair = (random.random(rows)[:, None] > bounds[state]).sum(axis=1).clip(max=8)
        out[:, i], state = pair // 3, pair % 3
    return out


def tokens(letters: NDArray[np.int64]) -> NDArray[np.int64]:
    """Token ids `[row, n + 1]` of letters `[row, n]`: `START` in front."""
    return np.concatenate([np.full((len(letters), 1), END), letters], axis=1)


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
