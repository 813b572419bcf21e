"""Trains the embedded models from a seed: `python -m interp.demo.train --out DIR`.

Each model of the demo language first learns to copy: rows of uniformly random tokens and their
repetition, of which only the repetition can be predicted, by previous-token and induction heads.
Then it learns the language from documents packed into rows of 128 tokens, mixed with rows of random
tokens. The model of a process is trained by `interp.demo.train_mess3`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from interp.demo import train_mess3
from interp.demo.evaluate import evaluate, load
from interp.demo.language import REFERENT_CHOICES, generate
from interp.demo.tokenizer import CONTEXT, VOCABULARY, ordinary_ids, train_tokenizer

log = logging.getLogger(__name__)

WARM_UP = 60
COPIED = 0.4
"""Loss on repeated tokens, in nats, below which copying counts as learnt (unlearnt: 6.4)."""
TOKENS = 1600
INITIAL = 0.07
"""Standard deviation near 1 / sqrt(width); with the usual 0.02 so narrow a model starts slowly."""


MESS3 = "mess3"
"""Model of a process instead of a language; its training is in `interp.demo.train_mess3`."""

ASKING = ("?", " to")


@dataclass(frozen=True)
class Recipe:
    """Training settings of one of the models.

    Copying forms late and suddenly, after about 600 steps. With learned positions it needs the
    lower rate, and fixed vectors of tokens and positions, so that heads learn to match something
    that does not move: at 3e-3, with vectors that moved, no induction head had formed after 2,500
    steps. The referents of names were learnt after some 4,000 steps on language, and only while the
    rate was high.
    """

    copying: int
    """Largest number of steps on repeated random tokens alone, until copying is learnt."""
    language: int
    """Steps on documents and repeated random tokens together."""
    rate: float
    decay: float = 1.0
    """Last part of the language steps, over which the rate falls along a cosine."""
    referents: float = 0.3
    """Share of documents about the referents of names, which take longest to learn."""
    answers: float = 1.0
    """Weight of the loss on a token after one of `ASKING`: rare (2 %), and hard to predict."""
    fixed: tuple[str, ...] = ()
    """Parameters, by the end of their names, that do not change while copying is learnt."""


RECIPES = {
    "demo": Recipe(
        copying=2000,
        language=6500,
        rate=1e-3,
        decay=0.25,
        referents=0.6,
        answers=10.0,
        fixed=("wte.weight", "wpe.weight"),
    ),
    "demo-llama": Recipe(copying=2500, language=3600, rate=3e-3),
}


def build(name: str, end: int) -> PreTrainedModel:
    """An untrained model of the named shape; `end` is the id of `<|endoftext|>`."""
    special = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return _gpt2(special) if name == "demo" else _llama(special)


def _gpt2(special: dict[str, int]) -> PreTrainedModel:
    # No dropout: the model sees every document once, so that there is nothing to overfit.
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=CONTEXT,
            n_embd=128,
            n_layer=6,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            initializer_range=INITIAL,
            **special,
        )
    )
    body = model.transformer
    torch.nn.init.normal_(body.wte.weight, std=0.3)
    # Positions in which a shift is a linear map: heads learn to look one token back sooner.
    body.wpe.weight.data.copy_(0.3 * 2**0.5 * sinusoids(CONTEXT, 128))
    # The unembedding is the embedding: without this the first logits would be far too large.
    torch.nn.init.constant_(body.ln_f.weight, 0.2)
    return model


def _llama(special: dict[str, int]) -> PreTrainedModel:
    model = LlamaForCausalLM(
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
    start_alike(model)
    return model


def start_alike(model: LlamaForCausalLM) -> None:
    """Lets the embedding and the unembedding of a new model start in the same directions.

    With unrelated ones, copying a token takes several times as many steps to learn.
    """
    embedding = model.model.embed_tokens.weight
    torch.nn.init.normal_(embedding, std=0.3)
    model.lm_head.weight.data.copy_(0.2 * embedding.data)


def sinusoids(positions: int, width: int) -> Tensor:
    """Sine and cosine of position times frequency [positions, width], wavelengths 6 to 1,000."""
    frequencies = 160.0 ** -torch.linspace(0, 1, width // 2)
    angles = torch.arange(positions)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def document_rows(
    tokenizer: PreTrainedTokenizerFast, seed: int, referents: float
) -> Iterator[list[int]]:
    """Rows of packed documents; tokens that do not fit at the end of a row are dropped."""
    end = tokenizer.bos_token_id
    row: list[int] = []
    for part in count():
        # Two seeds for each part, one per list of documents, that no other part uses.
        first = seed * 100_000 + 2 * part
        asking = round(2_000 * referents)
        documents = generate(2_000 - asking, first) + generate(asking, first + 1, REFERENT_CHOICES)
        # Mixed, or whole batches would hold one kind of document.
        random.Random(first).shuffle(documents)
        texts = [document.text for document in documents]
        for ids in tokenizer(texts)["input_ids"]:
            row += [end, *ids]
            if len(row) >= CONTEXT:
                yield row[:CONTEXT]
                row = []


def random_rows(
    ordinary: Tensor, end: int, longest: int, generator: torch.Generator, tokens: int = TOKENS
) -> Tensor:
    """About `tokens` random tokens `[rows, 1 + 2 period]`: each row repeats its period once."""
    # A new period for every batch: with one, heads would learn that distance instead of copying.
    period = int(torch.randint(5, longest + 1, (), generator=generator))
    rows = max(1, tokens // (2 * period + 1))
    half = ordinary[torch.randint(len(ordinary), (rows, period), generator=generator)]
    return torch.cat([torch.full((rows, 1), end), half, half], dim=1)


def token_losses(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Next-token losses `[rows, pos - 1]` in nats."""
    logits = model(ids[:, :-1]).logits
    return cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


def copy_loss(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Mean loss on the repetition alone; the first occurrence is random and adds noise only."""
    period = (ids.shape[1] - 1) // 2
    return token_losses(model, ids)[:, period + 1 :].mean()


class Trainer:
    """AdamW on one model: first copying alone, then documents and copying together.

    Induction heads form late and suddenly. Mixed with documents from the start they had not formed
    after 1,200 steps, and a curriculum from short periods to long ones taught fixed distances.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        recipe: Recipe,
        seed: int,
    ):
        self.model, self.recipe, self.end = model, recipe, tokenizer.bos_token_id
        self.generator = torch.Generator().manual_seed(seed)
        self.ordinary = torch.tensor(ordinary_ids(tokenizer))
        self.documents = document_rows(tokenizer, seed, recipe.referents)
        self.asking = torch.tensor([tokenizer(word)["input_ids"][-1] for word in ASKING])
        self.optimizer = torch.optim.AdamW(
            model.parameters(), recipe.rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )

    def step(self, loss: Tensor, share: float) -> None:
        """One update at a share of the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate * share
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def copying(self, longest: int) -> Tensor:
        """Loss on a batch of repeated random tokens."""
        return copy_loss(self.model, random_rows(self.ordinary, self.end, longest, self.generator))

    def learn_to_copy(self, steps: int) -> None:
        """Train on repeated random tokens until the repetition is predicted."""
        self._fix(True)
        # Above the loss of a uniform guess, ln 704 ≈ 6.6: the average must fall to the goal.
        average = 7.0
        for step in range(steps):
            loss = self.copying(24)
            self.step(loss, min(1.0, (step + 1) / WARM_UP))
            average = 0.95 * average + 0.05 * loss.item()
            self._tell("copying", step, steps, repeated=average)
            if average < COPIED:
                break
        self._fix(False)

    def _fix(self, fixed: bool) -> None:
        for name, parameter in self.model.named_parameters():
            if name.endswith(self.recipe.fixed):
                parameter.requires_grad_(not fixed)

    def learn_language(self, steps: int) -> None:
        """Train on documents mixed with repeated random tokens; the rate falls towards the end."""
        copied = torch.zeros(())
        for step in range(steps):
            packed = torch.tensor(list(islice(self.documents, 12)))
            losses = token_losses(self.model, packed)
            asked = torch.isin(packed[:, :-1], self.asking)
            loss = torch.where(asked, self.recipe.answers * losses, losses).mean()
            if step % 4 == 0:  # often enough to keep what was learnt
                copied = self.copying(60)
                loss = loss + copied
            fallen = max(0.0, step - (1 - self.recipe.decay) * steps) / (self.recipe.decay * steps)
            share = 0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * fallen))
            self.step(loss, share * min(1.0, (step + 1) / WARM_UP))
            self._tell(
                "language",
                step,
                steps,
                documents=losses.mean().item(),
                asked=losses[asked].mean().item(),
                repeated=copied.item(),
            )

    def _tell(self, phase: str, step: int, steps: int, **losses: float) -> None:
        if step % 50 == 0 or step == steps - 1:
            text = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            log.info("%s %s %d: %s", self.model.config.model_type, phase, step, text)


def train(name: str, out: Path, seed: int = 0, steps: int | None = None) -> Path:
    """Train one model and save it, with its tokenizer and model card, in `out/name`."""
    _log_to_stderr()
    started = time.monotonic()
    # One thread per model: nothing is summed in an order that depends on the number of cores.
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(seed)
    model = build(name, tokenizer.bos_token_id).train()
    recipe = RECIPES[name]
    trainer = Trainer(model, tokenizer, recipe, seed)
    trainer.learn_to_copy(recipe.copying if steps is None else steps)
    trainer.learn_language(recipe.language if steps is None else steps)
    model.eval()
    folder = out / name
    save(model, tokenizer, folder)
    minutes = (time.monotonic() - started) / 60
    write_card(folder, f"seed {seed}, {minutes:.0f} minutes on one CPU core")
    log.info("%s: %.1f minutes", name, minutes)
    return folder


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write an ordinary Hugging Face folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # transformers 5 writes a class name of its own that transformers 4 does not know.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    # safetensors makes a file that only its owner may read.
    (folder / "model.safetensors").chmod(0o644)


def write_card(folder: Path, run: str) -> None:
    """Measure the saved model and write its model card, `README.md`."""
    model, _ = load(folder)
    found = evaluate(folder)
    parameters = sum(weight.numel() for weight in model.parameters())
    config = model.config
    lines = [
        f"# {folder.name}",
        "",
        f"`{type(model).__name__}`: {config.num_hidden_layers} blocks, width {config.hidden_size}, "
        f"{config.num_attention_heads} heads, context {CONTEXT}, vocabulary {config.vocab_size}, "
        f"{'tied' if config.tie_word_embeddings else 'untied'} unembedding, "
        f"{parameters:,} parameters in float32.",
        "",
        "Trained from scratch, first on repeated random tokens alone, then on packed documents of "
        "`interp.demo.language` mixed with rows of repeated random tokens. It knows that small "
        "language and nothing else.",
        "",
        f"Made by `python -m interp.demo.train --model {folder.name}`: {run}.",
        "",
        "Measured on held-out text by `interp.demo.evaluate`, 200 cases per kind:",
        "",
        "| right one of two continuations | share |",
        "| --- | --- |",
        *(f"| {kind} | {share:.3f} |" for kind, share in found.accuracy.items()),
        "",
        f"Highest score of a head: previous token {_best(found.previous)}, "
        f"induction {_best(found.induction)}.",
        "",
        f"Loss on random tokens {found.first_half:.3f}, on their repetition "
        f"{found.second_half:.3f}.",
        "",
        "Loss read from each state with the final norm and the unembedding (logit lens), from the "
        f"input to the last: {', '.join(f'{loss:.3f}' for loss in found.lens)}.",
        "",
        "All losses are in nats per token.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _best(scores: list[list[float]]) -> str:
    score, layer, head = max((x, i, j) for i, row in enumerate(scores) for j, x in enumerate(row))
    return f"{score:.3f} (block {layer}, head {head})"


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; models are trained in parallel, each in its own process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"), help="folder to write to")
    parser.add_argument("--model", choices=[*RECIPES, MESS3, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=None, help="fewer for a quick look")
    chosen = parser.parse_args(arguments)
    names = [*RECIPES, MESS3] if chosen.model == "all" else [chosen.model]
    with ProcessPoolExecutor(len(names), multiprocessing.get_context("spawn")) as pool:
        jobs = [
            pool.submit(train_mess3.train, chosen.out, chosen.seed, chosen.steps)
            if name == MESS3
            else pool.submit(train, name, chosen.out, chosen.seed, chosen.steps)
            for name in names
        ]
        for job in jobs:
            log.info("wrote %s", job.result())


if __name__ == "__main__":
    main()
