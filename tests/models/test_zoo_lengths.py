"""Prompts of awkward lengths: the numbers of plain Hugging Face, or refused by name."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from zoo import ZOO, Entry, boot, random_tokens, reference
from zoo.decoders import WIDE_HEADS
from zoo.encoders import BART
from zoo.entry import hf
from zoo.experts import SHARED
from zoo.mixers import GATED_DELTA
from zoo_lengths import LENGTHS, judge_lengths
from zoo_states import Stream, difference

import interp
from interp.errors import BadInput, Unsupported
from interp.models.lengths import PositionRows, cut_to, measured_multiple, padded_length

FULL = os.environ.get("INTERP_FULL") == "1"
USUAL = ("gpt2", "led", "recurrent-gemma", "t5")
"""Learned positions, a padded stack, a window with a convolution, two stacks without positions."""


@pytest.mark.parametrize("name", list(ZOO) if FULL else USUAL)
def test_every_length_is_right_or_refused(name):
    assert judge_lengths(ZOO[name], LENGTHS if FULL else (1, 2, 13)) == {}


def test_a_text_longer_than_a_chunk_of_linear_attention():
    """Its chunks have 64 tokens, as many as the contexts of the zoo."""
    entry = hf(
        "qwen3-next-long",
        "Qwen3NextForCausalLM",
        **GATED_DELTA,
        **WIDE_HEADS,
        **SHARED,
        max_position_embeddings=96,
    )
    assert judge_lengths(entry, (3, 63, 65)) == {}


# ---- a stack that the model pads -------------------------------------------------------------


def led(name: str, window: int, encoder_rows: int, decoder_rows: int) -> Entry:
    left_out = ("max_position_embeddings", "scale_embedding")
    return hf(
        name,
        "LEDForConditionalGeneration",
        **{key: value for key, value in BART.items() if key not in left_out},
        max_encoder_position_embeddings=encoder_rows,
        max_decoder_position_embeddings=decoder_rows,
        attention_window=[window] * 3,
    )


@pytest.fixture(scope="module")
def narrow():
    return boot(ZOO["led"])


def test_a_window_wider_than_the_probe_and_as_wide_as_the_stream():
    entry = led("led-wide", 24, 62, 64)
    assert judge_lengths(entry, (1, 13, 25)) == {}


@pytest.mark.parametrize(
    ("window", "encoder_rows", "decoder_rows", "longest"),
    [(24, 62, 64, 48), (4, 64, 63, 63), (4, 63, 64, 60), (4, 64, 64, 64)],
)
def test_the_longest_prompt_is_what_the_tables_of_positions_hold(
    window, encoder_rows, decoder_rows, longest
):
    entry = led("led-rows", window, encoder_rows, decoder_rows)
    model = boot(entry)
    assert model.cfg.n_ctx == 2048, "the configuration does not tell"
    anatomy = interp.inspect(model)
    assert anatomy.n_ctx == longest
    assert [s.multiple for s in anatomy.stacks] == [window, 1]
    assert reference(entry, random_tokens(1, longest))["logits"].shape[1] == longest
    with pytest.raises(IndexError):
        reference(entry, random_tokens(1, longest + 1))
    with pytest.raises(BadInput, match=f"{longest + 1} tokens, the context holds {longest}"):
        interp.run(model, random_tokens(1, longest + 1), "rotation", progress=False)


def test_inspect_tells_what_is_padded(narrow):
    text = repr(interp.inspect(narrow))
    assert "encoder columns" in text
    assert "padded by the model to a multiple of 4; those behind the prompt are cut off" in text
    assert "decoder columns" not in text


def test_attached_passes_are_cut_to_their_tokens(narrow):
    tokens = random_tokens(2, 13)
    mask = torch.ones_like(tokens)
    mask[1, 9:] = 0
    with interp.attach(narrow, Stream()) as probes, torch.no_grad():
        narrow(tokens[:1])
        narrow(tokens, attention_mask=mask)
    kept = probes["stream"].examples("x")
    states = {stack: [items[i] for i in sorted(items)] for (stack, _), items in kept.items()}
    whole, short = reference(ZOO["led"], tokens[:1]), reference(ZOO["led"], tokens[1:, :9])
    for prompt, expected in ((0, whole), (1, whole), (2, short)):
        assert difference({s: [x[prompt]] for s, x in states.items()}, expected) == ""


def test_a_model_that_pads_in_front_is_refused(monkeypatch):
    model = boot(ZOO["led"])
    encoder = model.original_model.get_encoder()
    behind = type(encoder)._pad_to_window_size

    def in_front(input_ids, attention_mask, inputs_embeds, pad_token_id):
        added, *tensors = behind(encoder, input_ids, attention_mask, inputs_embeds, pad_token_id)
        return added, *(None if x is None else x.roll(added, dims=1) for x in tensors)

    monkeypatch.setattr(encoder, "_pad_to_window_size", in_front)
    with pytest.raises(Unsupported, match="encoder_blocks have other columns than the prompt has"):
        interp.run(model, random_tokens(1, 12), "rotation", progress=False)


# ---- the multiple ----------------------------------------------------------------------------


def padding_stack(multiple: int, *, behind: bool = True, seen: float = 0.0):
    """Last states of a stack that adds columns, which change the others by `seen`."""

    def last_state(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        real = ids if mask is None else ids * mask
        added = padded_length(ids.shape[1], multiple) - ids.shape[1]
        sides = (0, 0, 0, added) if behind else (0, 0, added, 0)
        state = real[..., None].double() + torch.arange(3) + seen * added
        return torch.nn.functional.pad(state, sides)

    return last_state


IDS = torch.arange(1, 17)[None]


@pytest.mark.parametrize("multiple", [2, 4, 5, 15, 16, 64])
def test_the_multiple_is_measured(multiple):
    assert measured_multiple(padding_stack(multiple), IDS, 1e-4) == (multiple, None)


def test_padding_that_stands_or_acts_elsewhere_is_told():
    in_front, acting = padding_stack(4, behind=False), padding_stack(4, seen=0.1)
    for stack in (in_front, acting):
        multiple, problem = measured_multiple(stack, IDS, 1e-4)
        assert multiple == 4
        assert "15 tokens have 16 columns of states, which are not those" in problem


def test_columns_that_are_no_multiple_are_told():
    multiple, problem = measured_multiple(
        lambda ids, _: torch.ones(1, ids.shape[1] + 3, 2), IDS, 1e-4
    )
    assert multiple == 4
    assert problem == "15 tokens have 19 columns of states, and 1 token 4"


def test_a_square_is_cut_along_both_axes_and_the_width_never():
    pattern = cut_to(torch.ones(1, 8, 8, 8), ("batch", "head", "query", "key"), 5, 8)
    stream = cut_to(torch.ones(2, 8, 8), ("batch", "pos", "d_model"), 5, 8)
    assert pattern.shape == (1, 8, 5, 5)
    assert stream.shape == (2, 5, 8)


def test_rows_are_counted_from_the_first_position():
    table, words = torch.nn.Embedding(20, 3), torch.nn.Embedding(50, 3)
    with PositionRows(4) as rows:
        words(torch.tensor([[7, 3, 8, 8]]))
        assert rows.longest() is None
        table(torch.arange(2, 6)[None])
    table(torch.arange(9, 14))  # outside
    assert rows.longest() == 18
    with PositionRows(4) as rows:
        table(torch.arange(6))  # two more than there are tokens
    assert rows.longest(3) == 18


# ---- writing ---------------------------------------------------------------------------------


def steered(model, steer, tokens, **mask):
    hooks = steer.hooks(model, **mask)
    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=hooks).numpy()


def test_the_last_token_of_a_padded_stack_is_steered_and_not_its_padding(narrow):
    tokens, direction = random_tokens(1, 13), torch.linspace(-1, 1, 24)
    options = {"amount": 5.0, "layers": 1, "stack": "encoder"}
    last = interp.experiments.Steer("add", direction, positions="last", **options)
    with pytest.raises(Unsupported, match="to a multiple of 4 columns, .* pass mask="):
        last.hooks(narrow)
    ones = torch.ones_like(tokens)
    column = interp.experiments.Steer("add", direction, positions=[12], **options)
    with torch.no_grad():
        plain = narrow(tokens).numpy()
    got = steered(narrow, last, tokens, mask=ones)
    assert np.abs(got - plain).max() > 1e-3
    assert np.array_equal(got, steered(narrow, column, tokens))
    where = interp.experiments.Steer(
        "add", direction, positions=(torch.arange(13) == 12), **options
    )
    assert np.array_equal(got, steered(narrow, where, tokens))
