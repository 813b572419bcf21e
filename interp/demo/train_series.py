"""Trains a small model and keeps checkpoints: `python -m interp.demo.train_series --out DIR`.

Three seeds by default, each a folder `seed-N` with a checkpoint per step of `STEPS`, in half
precision. The model is smaller than the embedded ones and sees the same language and the same rows
of repeated random tokens, so that previous-token and induction heads, the lens and the embedding
space form within a minute or two on one core.
"""

from __future__ import annotations

import argparse
import logging
import math
import time
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging as logging_of_transformers

from interp.demo import model_path
from interp.demo.evaluate import load
from interp.demo.tokenizer import CONTEXT
from interp.demo.train import Recipe, Trainer, random_rows, save, start_alike, token_losses

log = logging.getLogger(__name__)

STEPS = (0, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Steps after which a checkpoint is kept: 0 is untrained, the others double."""
SEEDS = (0, 1, 2)
BLOCKS, WIDTH, HEADS = 4, 64, 4
RATE = 4e-3
HORIZON = STEPS[-1]
"""Steps over which the rate falls along a cosine, also where a run ends sooner."""
RECIPE = Recipe(copying=0, language=HORIZON, rate=RATE, referents=0.3)
WARM_UP = 40
ROWS, COPIED = 4, 1600
"""Rows of documents in a batch, and about how many random tokens."""
LONGEST = 24
"""Of the repeated periods, in tokens."""


def build(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """An untrained Llama of 4 blocks, 64 wide, with the vocabulary of the embedded models."""
    end = tokenizer.bos_token_id
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=BLOCKS,
            num_attention_heads=HEADS,
            num_key_value_heads=HEADS,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=False,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
        )
    )
    start_alike(model)
    return model


def train_series(
    out: Path | str, seeds: tuple[int, ...] = SEEDS, steps: tuple[int, ...] = STEPS
) -> list[Path]:
    """Train a model per seed and keep its checkpoints as `out/seed-N/step-S`; returns the folders.

    A seed decides the weights at the start, the documents and the random tokens.
    """
    return [folder for seed in seeds for folder in train_seed(Path(out), seed, steps)]


def train_seed(out: Path, seed: int, steps: tuple[int, ...] = STEPS) -> list[Path]:
    """Train one model and keep its checkpoints; returns their folders."""
    started = time.monotonic()
    threads = torch.get_num_threads()
    # One thread: nothing is summed in an order that depends on the number of cores.
    torch.set_num_threads(1)
    try:
        folders = _trained(out / f"seed-{seed}", seed, steps)
    finally:
        torch.set_num_threads(threads)
    log.info("seed %d: %.0f s", seed, time.monotonic() - started)
    return folders


def _trained(folder: Path, seed: int, steps: tuple[int, ...]) -> list[Path]:
    torch.manual_seed(seed)
    _, tokenizer = load(model_path("demo"))
    model = build(tokenizer).train()
    # Documents of other seeds than those of the embedded models.
    trainer = Trainer(model, tokenizer, RECIPE, 1_000 + seed)
    folders = []
    for step in range(max(steps) + 1):
        if step in steps:
            folders.append(_kept(model, tokenizer, folder / f"step-{step}"))
        if step < max(steps):
            _step(trainer, step)
    return folders


def _step(trainer: Trainer, step: int) -> None:
    """One update on documents and repeated random tokens; the rate falls along a cosine."""
    packed = torch.tensor(list(islice(trainer.documents, ROWS)))
    language = token_losses(trainer.model, packed).mean()
    rows = random_rows(trainer.ordinary, trainer.end, LONGEST, trainer.generator, COPIED)
    copied = _copy_loss(trainer.model, rows)
    share = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / HORIZON))
    trainer.step(language + copied, share * min(1.0, (step + 1) / WARM_UP))
    if step % 64 == 63:
        log.info("step %d: documents %.3f, repeated %.3f", step, language.item(), copied.item())


def _copy_loss(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Mean loss on the repetition; logits are made of that half alone, which saves a third."""
    period = (ids.shape[1] - 1) // 2
    states = model.model(ids[:, :-1]).last_hidden_state[:, period + 1 :]
    logits = model.lm_head(states)
    return cross_entropy(logits.transpose(1, 2), ids[:, period + 2 :])


def _kept(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """A copy of the model in half precision, as an ordinary Hugging Face folder."""
    state = {name: weight.half() for name, weight in model.state_dict().items()}
    copy = type(model)(model.config).half()
    copy.load_state_dict(state)
    bars = logging_of_transformers.is_progress_bar_enabled()
    logging_of_transformers.disable_progress_bar()
    try:
        save(copy.eval(), tokenizer, folder)
    finally:
        if bars:
            logging_of_transformers.enable_progress_bar()
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("training"), help="folder to write to")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="number of seeds")
    chosen = parser.parse_args(arguments)
    train_series(chosen.out, tuple(range(chosen.seeds)))


if __name__ == "__main__":
    main()
