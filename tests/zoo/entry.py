"""One row of the zoo, and how its tiny model is made from a configuration.

Knows Hugging Face configurations and random weights; knows nothing of TransformerLens.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers

VOCAB = 113
"""Vocabulary of every text model here; `tiny_tokenizer` has exactly as many words."""

SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}

TINY: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    **SPECIAL_IDS,
}
"""What a family with the usual names of the fields starts from."""

EXTRA_FIELDS = {"decoder_start_token_id", "head_dim", "tie_word_embeddings"}
"""Fields that checkpoints have and their configuration class does not declare."""

LEARNED_BUFFERS = {
    "final_logits_bias",
    "layer_scalar",
    "e_score_correction_bias",
    "expert_bias",
}
"""Buffers that a trained checkpoint fills with something else than 0 or 1."""


@dataclass(frozen=True)
class Entry:
    """One architecture or layout of the zoo.

    `build()` gives the plain model in eval mode, float32, with the same random weights each time.
    `fast` entries are run in every test session, one for each class of layouts.
    """

    name: str
    architecture: str
    build: Callable[[], Any]
    kind: str = "decoder"
    fast: bool = False
    notes: str = ""


def hf(
    name: str,
    architecture: str,
    *,
    kind: str = "decoder",
    fast: bool = False,
    notes: str = "",
    tiny: bool = True,
    listed_as: str | None = None,
    **config: Any,
) -> Entry:
    """Row for a Hugging Face class; `config` overrides `TINY`, or is all there is if not `tiny`.

    `listed_as` is the name in the checkpoints' own files where it differs from the class.
    """
    base = TINY if tiny else {"vocab_size": VOCAB, **SPECIAL_IDS}

    def build() -> Any:
        model = build_hf(architecture, base, config, seed=name)
        # A checkpoint on disk carries this name; TransformerLens looks it up.
        model.config.architectures = [listed_as or architecture]
        return model

    return Entry(name, architecture, build, kind, fast, notes)


def build_hf(architecture: str, base: dict[str, Any], overrides: dict[str, Any], seed: str) -> Any:
    """Randomly initialised `transformers.<architecture>`; the caller's random state is kept.

    Of `base` only what the configuration has: a stray `num_key_value_heads` on GPT-NeoX would be
    believed by TransformerLens. An override that it has not is a misspelling.
    """
    model_class = getattr(transformers, architecture)
    config_class = model_class.config_class
    declared = {*config_class.__dataclass_fields__, *config_class.attribute_map}
    undeclared = set(overrides) - declared - EXTRA_FIELDS
    if undeclared and (misspelt := undeclared - set(config_class().to_dict())):
        raise TypeError(f"{config_class.__name__} has no {sorted(misspelt)}")
    fields = {key: value for key, value in base.items() if key in declared} | overrides
    with seeded(seed):
        # Nested values are copied: a configuration may write into the dictionaries it is given.
        config = config_class(**copy.deepcopy(fields))
        model = model_class._from_config(config, attn_implementation="eager")
        randomise(model)
    return model.eval()


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Torch is seeded by `name` inside; afterwards the random state is what it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    """Add noise to every parameter, so that no norm is 1, no bias 0 and no layer negligible.

    Default initialisation (standard deviation 0.02, unit norms) makes blocks so weak that a
    forgotten norm, bias or multiplier hides below a test's tolerance.
    """
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        spread = 0.2 if parameter.ndim < 2 else 0.8 / parameter.shape[-1] ** 0.5
        parameter.add_(spread * torch.randn_like(parameter))
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] in LEARNED_BUFFERS:
            buffer.add_(0.2 * torch.randn_like(buffer))
