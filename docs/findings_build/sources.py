"""What the findings are measured on: models, vectors, a tagger, sentences, and the main run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import interp

ANALYSES = ("rotation", "path_length", "random_pairs", "next_token")


@dataclass
class Sources:
    """Names of what is measured; each is loaded once, when it is needed.

    Attributes:
        model: the language model.
        encoder: the encoder whose words are compared with those of the model.
        vectors: static word vectors.
        pipeline: spaCy's pipeline for parts of speech.
    """

    model: Any = "smollm2"
    encoder: Any = "minilm"
    vectors: Any = "glove"
    pipeline: Any = "spacy-en"

    @cached_property
    def bridge(self) -> Any:
        """The language model, loaded."""
        return interp.load_model(self.model)

    @cached_property
    def anatomy(self) -> Any:
        """What `interp.inspect` says about the model."""
        return interp.inspect(self.bridge)

    @cached_property
    def results(self) -> interp.Results:
        """The main run: the sentences with "her", with tags and frequencies, and the control."""
        return interp.run(
            self.bridge,
            "her",
            list(ANALYSES),
            target="her",
            labellers=[interp.word_frequency(), interp.spacy_tags(self.pipeline)],
            control="random-init",
            progress=False,
        )
