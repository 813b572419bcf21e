"""The byte-level tokenizer of the demo models, trained on the demo language.

Built like GPT-2's: a leading space belongs to the token, any text can be encoded, and
`<|endoftext|>` begins, ends and pads. It knows nothing about gold annotations.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from interp.demo.language import generate

END = "<|endoftext|>"
VOCABULARY = 704
CONTEXT = 128


def train_tokenizer(seed: int = 0) -> PreTrainedTokenizerFast:
    """A tokenizer of 704 tokens; it does not add `<|endoftext|>` by itself."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        # Sorted, because the alphabet is a set, whose order would decide the ids.
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # Ambiguous words are rare; without more of them they would not become tokens of their own.
    documents = generate(20_000, seed) + generate(4_000, seed, ["sense"])
    core.train_from_iterator((document.text for document in documents), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        unk_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def ordinary_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Every token id except the special ones."""
    special = set(tokenizer.all_special_ids)
    return [i for i in range(len(tokenizer)) if i not in special]
