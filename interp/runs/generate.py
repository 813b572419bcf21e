"""Generation: a model continues prompts, and analyses measure prompt and continuation.

The text is written first, with a KV cache where it is exact; then one pass over it is measured, so
that every row of a table is what `run` gives for the finished text. `attach` measures the passes of
the generation themselves; both agree wherever `inspect` found that a cache continues rightly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from interp._arrays import Bools, Ints
from interp._progress import Writing
from interp.contract.columns import refuse_taken
from interp.contract.options import check_numbers, check_options
from interp.contract.registry import resolve
from interp.errors import BadInput, unknown
from interp.models.anatomy import Anatomy
from interp.models.for_model import prompts_of
from interp.models.load import load_model
from interp.models.probe import inspect, refuse_training
from interp.models.writing import (
    Sampling,
    refuse_full,
    refuse_silent,
    stop_ids,
    uncached,
    until,
    write,
)
from interp.prompts.label_values import frozen
from interp.prompts.prompts import Prompts
from interp.prompts.tokens import spelled, token_id, token_strings
from interp.runs.before_loading import opened
from interp.runs.results import Results
from interp.runs.run import DEFAULT, Wanted, run
from interp.runs.written import ENDS, GENERATION

SPEAKER = "assistant"  # of what a model writes after chat messages
LABELS = ("given", "sample", "generated", "generation_step")
OPTIONS = ("target", "token_labels", "labellers", "targets", "against", "keep", "by", "control",
           "layers", "positions", "settings", "without_dims")  # fmt: skip
NO_CACHE = "The text was written without a KV cache, because "


def generate(
    model: Any,
    prompts: Any,
    analyses: Wanted = DEFAULT,
    *,
    max_new_tokens: int = 32,
    samples: int = 1,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    stop: Sequence[str | int] | None = None,
    seed: int = 0,
    labels: Mapping[str, Sequence[Any]] | None = None,
    prepend_bos: bool | None = None,
    max_tokens: int = 4096,
    model_options: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Results:
    """Lets a model continue prompts and measures the whole texts.

    Every prompt becomes `samples` texts, numbered one after the other. Four columns are added to
    the tables: `given`, the number of the prompt that was given; `sample`, the number of its
    continuation; `generated`, whether the model wrote the token; `generation_step`, the number of
    the token among those that it wrote, from 1, and 0 in the prompt. The texts themselves are in
    `results.texts`.

    Chat messages end with the header of a reply (`add_generation_prompt` of the tokenizer), or,
    where the last message is the assistant's, with its text, which the model continues. The label
    `role` of what it writes is "assistant". Prompts that were read before are continued as they
    are: read chats with `read_prompts(…, generation_prompt=True)`.

    Args:
        model: a bridge, or anything `load_model` takes.
        prompts: as for `run`.
        analyses: as for `run`.
        max_new_tokens: number of tokens after which a text ends.
        samples: texts per prompt; more than one only with `do_sample`.
        do_sample: draw each token; else the likeliest is taken.
        temperature: divides the logits before a draw, above 0.
        top_k: draw among the so many likeliest tokens only.
        top_p: draw among the likeliest tokens whose probabilities sum to this.
        stop: tokens that end a text; the model's own unless given, none for `[]`.
        seed: of the draws; those of a text do not depend on the batch that it is in.
        labels: columns per given prompt, as for `run`.
        prepend_bos: the model's own policy unless given.
        max_tokens: budget of a batch.
        model_options: for `load_model`, as for `run`.
        progress: show the texts done, tokens and tokens per second; in a notebook also the first
            texts as they grow.
        options: further options of `run` (`control`, `keep`, `by`, `labellers`, `target`).

    Raises: `BadInput`, `UnknownName`, `Unsupported` before a token is written: for a model that
    continues no text, a prompt that fills the context, a temperature of 0 or below; and what
    `run` raises. `BadInput` after writing where every text is empty: the model stopped at once.
    """
    for name in options:
        if name not in OPTIONS:
            raise unknown("option of generate", name, OPTIONS)
    check_numbers(
        max_new_tokens=max_new_tokens, samples=samples, temperature=temperature, seed=seed,
        max_tokens=max_tokens,
    )  # fmt: skip
    check_options(
        top_k=top_k, top_p=top_p, stop=stop, do_sample=do_sample, labels=labels,
        prepend_bos=prepend_bos, model_options=model_options, **options,
    )  # fmt: skip
    how = Sampling(max_new_tokens, do_sample, temperature, top_k, top_p, seed)
    how.check()
    check_samples(samples, do_sample=do_sample)
    chosen = resolve(analyses)
    prompts = opened(model, prompts)
    bridge = load_model(model, **(model_options or {}))
    refuse_training(bridge)
    anatomy = inspect(bridge)
    refuse_silent(bridge, anatomy)
    anatomy.wire(list(chosen.values()))  # what cannot be measured is refused before writing
    reading: dict[str, Any] = {"prepend_bos": prepend_bos, "labels": labels}
    ready = prompts_of(bridge, anatomy, prompts, generation_prompt=True, **reading)
    refuse_taken([*ready.labels, *LABELS], chosen)
    _refuse_own(ready)
    refuse_full(ready, max_new_tokens, anatomy.n_ctx)
    stops = stop_ids(bridge) if stop is None else [token_id(bridge, s, "stop token") for s in stop]
    asked = repeated(ready, samples)
    new = _written(bridge, anatomy, asked, how, stops, samples, max_tokens, progress)
    notes = _stopped_at_once(new, stops, bridge.tokenizer)
    notes += _past_the_end(new, stop_ids(bridge), bridge.tokenizer)
    texts = continued(bridge, anatomy, asked, new, samples)
    texts = replace(texts, notes=(*texts.notes, *notes))
    options |= {"max_tokens": max_tokens, "progress": progress}
    results = run(bridge, texts, chosen.values(), **options)
    told = _told(how, stops, samples, anatomy, asked, new, bridge.tokenizer)
    results.provenance[GENERATION] = told | {ENDS: stop_ids(bridge)}
    if (why := uncached(anatomy)) is not None:
        for result in results.values():
            result.notes += (f"{NO_CACHE}{why}.",)
    return results


def check_samples(samples: int, *, do_sample: bool) -> None:
    """Raise `BadInput` for a number of texts per prompt that there cannot be."""
    if samples < 1:
        raise BadInput(f"samples is {samples!r}; allowed is 1 or more")
    if samples > 1 and not do_sample:
        raise BadInput(
            f"samples is {samples}, and without do_sample=True all continuations of a prompt are "
            "the same text"
        )


def _stopped_at_once(new: Sequence[Ints], stops: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """A note on the texts without a token before their stop; raises `BadInput` if all are so."""
    empty = [i for i, row in enumerate(new) if len(row) == 1 and int(row[0]) in stops]
    if not empty:
        return ()
    first = int(new[empty[0]][0])
    named = token_strings([first], tokenizer)[first]
    if len(empty) == len(new):
        raise BadInput(
            f"the model stopped at once after every prompt: the first token of each text is a stop "
            f"token (of the first text {named!r}); stop=[] writes on, or take prompts that do not "
            "end a text"
        )
    return (f"{told_empty(len(empty), len(new))} (the first is prompt {empty[0]}: {named!r})",)


def told_empty(empty: int, texts: int) -> str:
    """The number of texts without a token before their stop, in words."""
    return f"{empty} of {texts} texts are empty: their first token is a stop token"


def _past_the_end(new: Sequence[Ints], ends: Sequence[int], tokenizer: Any) -> tuple[str, ...]:
    """A note on texts that go on after a token with which the model ends a text."""
    after = [len(row) - len(until(row, ends)) for row in new]
    if not any(after):
        return ()
    seen = [int(until(row, ends)[-1]) for row, k in zip(new, after, strict=True) if k]
    named = ", ".join(map(repr, token_strings(seen, tokenizer).values()))
    longer, tokens = sum(map(bool, after)), sum(map(len, new))
    return (told_past_the_end(longer, len(new), sum(after), tokens, f" ({named})"),)


def told_past_the_end(longer: int, texts: int, after: int, tokens: int, named: str = "") -> str:
    """The number of texts that go on after their end, and of the tokens there, in words."""
    return (
        f"{longer} of {texts} texts go on after a token that ends a text{named}, {after} of "
        f"{tokens} written tokens come after it and are of another text"
    )


def _refuse_own(ready: Prompts) -> None:
    for name in LABELS:
        if name in ready.labels:
            raise BadInput(
                f"label {name!r} is a column that a generation writes; rename it "
                f"(labels={{'{name}_label': {name!r}}})"
            )
    if ready.targets is not None:
        raise BadInput("the prompts have targets; a generated text is measured on its next tokens")


def _written(
    bridge: Any,
    anatomy: Anatomy,
    asked: Prompts,
    how: Sampling,
    stops: Sequence[int],
    samples: int,
    max_tokens: int,
    progress: bool,
) -> list[Ints]:
    keys = [divmod(i, samples) for i in range(len(asked))]
    decode = partial(_text, tokenizer=bridge.tokenizer)
    with Writing(len(asked), how.max_new_tokens, decode, enabled=progress) as bar:

        def watch(numbers: Sequence[int], written: Ints, ended: Bools) -> None:
            rows = [until(row, stops).tolist() for row in written]
            bar.reach(numbers, rows, ended.tolist())

        options: dict[str, Any] = {"keys": keys, "max_tokens": max_tokens}
        options |= {"watch": watch} if progress else {}
        return write(bridge, anatomy, asked, how, stops, **options)


def repeated(prompts: Prompts, times: int) -> Prompts:
    """Every prompt so many times, one after the other, with its labels."""
    return taken(prompts, [i for i in range(len(prompts)) for _ in range(times)])


def taken(prompts: Prompts, rows: Sequence[int]) -> Prompts:
    """The prompts of these numbers, in this order, with their labels; without explicit targets."""

    def each(items: Any) -> Any:
        return tuple(items[i] for i in rows)

    return replace(
        prompts,
        tokens=each(prompts.tokens),
        special=each(prompts.special),
        texts=each(prompts.texts),
        spans=each(prompts.spans),
        strings=each(prompts.strings),
        labels={name: each(cells) for name, cells in prompts.labels.items()},
    )


def continued(
    bridge: Any, anatomy: Anatomy, asked: Prompts, new: Sequence[Ints], samples: int
) -> Prompts:
    """The prompts with their continuations, labelled; with text and spans where the ids have them.

    Args:
        asked: the prompts as `repeated` gives them.
        new: tokens to add to each.
        samples: continuations per given prompt.
    """
    rows = [np.concatenate(pair) for pair in zip(asked.tokens, new, strict=True)]
    texts = prompts_of(bridge, anatomy, rows)
    texts = replace(texts, source=f"{asked.source}, continued", notes=asked.notes)
    texts = _with_text(texts, asked, new, bridge.tokenizer)
    given, sample = zip(*(divmod(i, samples) for i in range(len(asked))), strict=True)
    steps = [
        np.concatenate([np.zeros(len(old), np.int64), np.arange(1, len(added) + 1)])
        for old, added in zip(asked.tokens, new, strict=True)
    ]
    columns: dict[str, Sequence[Any]] = {
        name: [
            _lengthened(*pair, SPEAKER if name == asked.speaker else None)
            for pair in zip(cells, new, strict=True)
        ]
        for name, cells in asked.labels.items()
    }
    columns |= {"given": given, "sample": sample, "generated": [s > 0 for s in steps]}
    columns["generation_step"] = steps
    for name, values in columns.items():
        texts = texts.with_labels(name, values)
    return texts


def _with_text(texts: Prompts, asked: Prompts, new: Sequence[Ints], tokenizer: Any) -> Prompts:
    """The texts with what is known of the prompts alone.

    From the ids alone, the headers of a chat template would be text like any other; and ids that a
    model wrote may be others than the tokenizer gives for their text, which is then not known.
    """
    special = [
        frozen(np.concatenate([old, row[len(old) :]]))
        for old, row in zip(asked.special, texts.special, strict=True)
    ]
    found, spans = list(texts.texts), list(texts.spans)
    for i, (text, places) in enumerate(zip(asked.texts, asked.spans, strict=True)):
        alone = asked.speaker is not None or found[i] is None
        if alone and text is not None and places is not None:
            more, own = spelled(asked.tokens[i], new[i], tokenizer)
            own = np.where(special[i][len(places) :, None], 0, own + len(text))
            found[i], spans[i] = text + more, frozen(np.concatenate([places, own]))
    return replace(
        texts,
        special=tuple(special),
        texts=tuple(found),
        spans=tuple(spans),
        speaker=asked.speaker,
    )


def _lengthened(cells: Any, new: Ints, value: Any) -> list[Any]:
    """The labels of a prompt's tokens and of those written after it: `value`, if that is known.

    What all of the prompt's tokens share is a fact about the prompt and holds for its continuation;
    what is said of single tokens is unknown of new ones.
    """
    labels = list(cells)
    if value is not None:
        return labels + [value] * len(new)
    shared = labels[0] if labels and all(cell == labels[0] for cell in labels) else None
    return labels + [shared] * len(new)


def _told(
    how: Sampling,
    stops: Sequence[int],
    samples: int,
    anatomy: Anatomy,
    asked: Prompts,
    new: Sequence[Ints],
    tokenizer: Any,
) -> dict[str, Any]:
    """The generation as JSON values: how it was done, and the texts."""
    texts = [
        {"given": i // samples, "sample": i % samples, **row}
        for i, row in enumerate(text_rows(asked, new, stops, tokenizer))
    ]
    told = {"samples": samples, "stops": list(stops), "cache": uncached(anatomy) is None}
    return how.settings() | told | {"texts": texts}


def text_rows(
    asked: Prompts, new: Sequence[Ints], stops: Sequence[int], tokenizer: Any
) -> list[dict[str, Any]]:
    """What was given and what was written, as JSON values: a row per text."""
    return [
        {
            "prompt": _text(old.tolist(), tokenizer),
            "text": _text(added.tolist(), tokenizer),
            "new_tokens": len(added),
            "stopped": bool(len(added)) and int(added[-1]) in stops,
        }
        for old, added in zip(asked.tokens, new, strict=True)
    ]


def _text(ids: Sequence[int], tokenizer: Any) -> str:
    """The ids as text with special tokens; the numbers where there is no tokenizer."""
    if tokenizer is None:
        return " ".join(map(str, ids))
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
