"""Labellers: functions from prompts to prompts with one more label column.

Each public name here makes a labeller for `Prompts.label`. A labeller sees text, spans and
special tokens; it knows nothing of models, batches or analyses. It can be pickled.
"""

from __future__ import annotations

import difflib
import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from interp._arrays import Ints
from interp.errors import BadInput, nearest
from interp.prompts.label_values import as_mapping
from interp.prompts.packages import folder_of, holds
from interp.prompts.prompts import Labeller
from interp.prompts.tokens import align, trimmed, word_pattern, words

if TYPE_CHECKING:
    from interp.prompts.prompts import Prompts


Pieces = Literal["last", "first", "all"]
_PIECES = ("last", "first", "all")
PLACE = ("start", "end", "text", "word")  # where an annotated word is; its other fields are labels


def target_word(
    word: str,
    *,
    name: str = "role",
    case_sensitive: bool = True,
    pieces: Pieces = "last",
    seed: int = 0,
    required: bool = True,
) -> Labeller:
    """Labels a word, the token before it and random controls: `target`, `previous`, `random`.

    The word is matched whole, from one word boundary to another as `Prompts` counts words (UAX
    #29): neither "there" nor "her's" holds "her". In Chinese, Japanese, Thai, Lao, Khmer and
    Burmese, which write no spaces, every character is bounded, so that a word is also found inside
    a longer one; `gold` or `spacy_tags` with a segmenter tell them apart. Of a word in several
    tokens the last is the target, because it is the first to have seen the whole word. `previous`
    is the token right before the word's first piece, spaces skipped; a special token never is.
    As many `random` tokens as there are targets are drawn among the other tokens that are not
    special; the draw depends on `seed` and the prompt's own tokens only.

    Args:
        word: the word, or several separated by single spaces.
        name: the label column.
        case_sensitive: whether "Her" is another word than "her".
        pieces: which tokens of a word in several are targets: "last", "first" or "all".
        seed: of the random controls.
        required: refuse prompts none of which has the word.

    Raises:
        BadInput: the word occurs in no prompt (unless not `required`), or a prompt has no
            character spans. A prompt without the word is allowed; `Prompts.notes` counts them.
    """
    refuse_no_word(word)
    if not word.strip():
        raise BadInput(f"target word {word!r} is blank; name a word such as 'her'")
    if pieces not in _PIECES:
        raise BadInput(f"pieces={pieces!r}{nearest(pieces, _PIECES)}; allowed: {_PIECES}")
    return partial(
        _mark_word,
        word=word,
        pattern=word_pattern(word, case_sensitive=case_sensitive),
        name=name,
        pieces=pieces,
        seed=seed,
        required=required,
    )


def regex(
    pattern: str, *, name: str = "match", group: int | str = 0, value: str | None = None
) -> Labeller:
    """Labels every token that overlaps a match of a regular expression.

    Args:
        pattern: as for Python's `re`; searched in the text of each prompt.
        name: the label column.
        group: the group whose characters are labelled, by number or name.
        value: the label; the matched text unless given.

    Raises:
        BadInput: a broken pattern, an unknown group, or no match in any prompt.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise BadInput(f"regular expression {pattern!r} is broken: {error}") from error
    if group not in range(compiled.groups + 1) and group not in compiled.groupindex:
        known = [*range(compiled.groups + 1), *compiled.groupindex]
        raise BadInput(f"pattern {pattern!r} has no group {group!r}; it has {known}")
    return partial(_mark_matches, pattern=compiled, name=name, group=group, value=value)


def gold(annotations: Sequence[Iterable[Any]], fields: Sequence[str] | None = None) -> Labeller:
    """Labels tokens with what is known about the word that they overlap.

    Args:
        annotations: for each prompt its words: mappings or objects with `start` and `end`
            (character offsets) and other fields, each of which becomes a label column.
        fields: the fields to use; all but `start`, `end`, `text` and `word` unless given.

    Raises:
        BadInput: another number of prompts, a word without offsets, offsets outside the text,
            overlapping words, a field that is no word's, or a value that is no scalar.
    """
    rows = tuple(tuple(as_mapping(word) for word in words_) for words_ in annotations)
    return partial(_mark_gold, annotations=rows, fields=tuple(fields) if fields else None)


def spacy_tags(pipeline: Any, attributes: Sequence[str] = ("pos",)) -> Labeller:
    """Labels tokens with the tags of their word by a spaCy pipeline.

    Args:
        pipeline: a loaded pipeline, or the name or path of one; `"spacy-en"` is the English one
            that the command `interp get spacy-en` fetches.
        attributes: label columns; `pos` is spaCy's `pos_`, and so on for `tag`, `lemma`, `dep`,
            `ent_type` and `morph` (`Case=Nom|Number=Sing`).

    Raises:
        BadInput: spaCy or the pipeline is not installed, the pipeline does not set the tag, or a
            prompt is longer than the pipeline takes. A tag that is set and empty everywhere, such
            as `ent_type` of prompts without entities, is a column without values and a note.
    """
    return partial(_mark_spacy, pipeline=pipeline, attributes=tuple(attributes))


def labelled(prompts: Prompts, labeller: Labeller) -> Prompts:
    """The prompts with the labels of a labeller; `BadInput` where one of them is there already."""
    found = prompts.label(labeller)
    for name, cells in prompts.labels.items():
        if any(map(_differ, found.labels.get(name, ()), cells)):
            raise BadInput(
                f"label {name!r} is there already, and a labeller (or target=) makes another one: "
                f"rename the first, labels={{'{name}_label': {name!r}}} or --labels "
                f"{name}_label={name}, or give the labeller another name="
            )
    return found


def _differ(a: Any, b: Any) -> bool:
    return a is not b and list(a) != list(b)


# --- target word ------------------------------------------------------------------------------


def _mark_word(
    prompts: Prompts,
    *,
    word: str,
    pattern: Any,
    name: str,
    pieces: Pieces,
    seed: int,
    required: bool,
) -> Prompts:
    columns = []
    found = 0
    for i in range(len(prompts)):
        text, spans = located(prompts, i, f"the target word {word!r}")
        column = np.full(len(spans), None, dtype=object)
        hits = [hit for m in pattern.finditer(text) if len(hit := _overlapping(spans, *m.span()))]
        found += bool(hits)
        _assign_roles(column, hits, spans, pieces, _generator(seed, prompts.tokens[i]))
        columns.append(column)
    if required and not found:
        raise BadInput(_never(prompts.texts, word, pattern))
    missing = len(prompts) - found
    note = f"target word {word!r}: {missing} of {len(prompts)} prompts are without it"
    return prompts.with_labels(name, columns, note=note if missing else None)


def _assign_roles(
    column: Any, hits: Sequence[Ints], spans: Ints, pieces: Pieces, generator: np.random.Generator
) -> None:
    """Writes the roles of one prompt into `column`; targets win over previous tokens."""
    if not hits:
        return
    visible = np.flatnonzero(spans[:, 1] > spans[:, 0])  # neither special nor spaces only
    taken = np.concatenate(hits)
    for hit in hits:
        before = visible[visible < hit[0]]
        if len(before):
            column[before[-1]] = "previous"
    column[taken] = None
    chosen = {"last": slice(-1, None), "first": slice(1), "all": slice(None)}[pieces]
    targets = np.concatenate([hit[chosen] for hit in hits])
    column[targets] = "target"
    free = [t for t in visible.tolist() if column[t] is None and t not in taken]
    drawn = generator.permutation(np.asarray(free, dtype=np.int64))[: len(targets)]
    column[drawn] = "random"


def _generator(seed: int, tokens: Ints) -> np.random.Generator:
    """Randomness from the prompt itself, so that neither order nor batching can change it."""
    digest = hashlib.sha256(f"{seed}:".encode() + tokens.astype("<i8").tobytes()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def refuse_no_word(word: Any) -> None:
    """Raises `BadInput` for a target word that is no text, such as a list of answers."""
    if not isinstance(word, str):
        raise BadInput(
            f"target={word!r} is {type(word).__name__}, not a word: target= takes one word of the "
            "prompts, such as 'her', whose tokens are labelled; lists of answers whose logits are "
            "measured, one per prompt, go into targets="
        )


def refuse_absent(texts: Sequence[str | None], word: str) -> None:
    """Raises `BadInput` where `target_word(word)` would find its word in none of the texts."""
    pattern = word_pattern(word)
    if not any(pattern.search(text or "") for text in texts):
        raise BadInput(_never(texts, word, pattern))


def _never(texts: Sequence[str | None], word: str, pattern: Any) -> str:
    seen: dict[str, str] = {}
    for text in texts:
        for start, end in words(text or ""):
            seen.setdefault((text or "")[start:end].casefold(), (text or "")[start:end])
    close = difflib.get_close_matches(word.casefold(), seen, n=3, cutoff=0.5)
    hint = f"; nearest words that occur: {', '.join(repr(seen[c]) for c in close)}" if close else ""
    if word.casefold() in seen and not pattern.flags & re.IGNORECASE:
        hint += "; case_sensitive=False would match it"
    return f"target word {word!r} occurs in none of the {len(texts)} prompts searched{hint}"


# --- the other labellers ----------------------------------------------------------------------


def _mark_matches(
    prompts: Prompts, *, pattern: re.Pattern[str], name: str, group: int | str, value: str | None
) -> Prompts:
    columns = []
    for i in range(len(prompts)):
        text, spans = located(prompts, i, f"the pattern {pattern.pattern!r}")
        column = np.full(len(spans), None, dtype=object)
        for match in pattern.finditer(text):
            if match.group(group):
                column[_overlapping(spans, *match.span(group))] = value or match.group(group)
        columns.append(column)
    if all(cell is None for column in columns for cell in column):
        raise BadInput(
            f"pattern {pattern.pattern!r} matches no token in the {len(prompts)} prompts searched"
        )
    return prompts.with_labels(name, columns)


def _mark_gold(
    prompts: Prompts,
    *,
    annotations: Sequence[Sequence[Mapping[str, Any]]],
    fields: Sequence[str] | None,
) -> Prompts:
    if len(annotations) != len(prompts):
        raise BadInput(f"annotations for {len(annotations)} prompts; expected {len(prompts)}")
    known = list(dict.fromkeys(k for row in annotations for word in row for k in word))
    names = [k for k in known if k not in PLACE] if fields is None else list(fields)
    for name in names:
        if name not in known:
            raise BadInput(f"no annotated word has {name!r}{nearest(name, known)} (known: {known})")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for i, row in enumerate(annotations):
        text, spans = located(prompts, i, "annotated words")
        ordered, intervals = _intervals(row, len(text), i)
        which = align(spans, intervals)
        for name in names:
            values = [ordered[k].get(name) if k >= 0 else None for k in which]
            columns[name].append(np.fromiter(values, dtype=object, count=len(values)))
    for name, column in columns.items():
        prompts = prompts.with_labels(name, column)
    return prompts


def _intervals(
    row: Sequence[Mapping[str, Any]], length: int, i: int
) -> tuple[list[Mapping[str, Any]], Ints]:
    """Annotated words of a prompt in order of the text, and their spans `[n, 2]`."""
    for k, word in enumerate(row):
        start, end = word.get("start"), word.get("end")
        if not isinstance(start, int) or not isinstance(end, int):
            raise BadInput(f"prompt {i}, annotated word {k}: needs integer 'start' and 'end'")
        if not 0 <= start < end <= length:
            raise BadInput(
                f"prompt {i}, annotated word {k}: characters {start} to {end} are not in its text "
                f"of {length}"
            )
    ordered = sorted(row, key=lambda word: word["start"])
    intervals = np.asarray([(w["start"], w["end"]) for w in ordered], dtype=np.int64).reshape(-1, 2)
    clash = np.flatnonzero(intervals[1:, 0] < intervals[:-1, 1])
    if len(clash):
        a, b = intervals[clash[0]].tolist(), intervals[clash[0] + 1].tolist()
        raise BadInput(f"prompt {i}: annotated words overlap, characters {a} and {b}")
    return ordered, intervals


def _mark_spacy(prompts: Prompts, *, pipeline: Any, attributes: Sequence[str]) -> Prompts:
    nlp = _load_spacy(pipeline) if isinstance(pipeline, str) else pipeline
    for i in range(len(prompts)):
        text, _ = located(prompts, i, "spaCy tags")
        _refuse_over_limit(i, len(text), nlp)
    documents = list(nlp.pipe(prompts.texts))
    rows = [
        [_spacy_word(token, attributes) for token in document if not token.is_space]
        for document in documents
    ]
    notes = []
    for name in attributes:
        if any(word[name] for row in rows for word in row):
            continue
        if not any(_annotated(document, name) for document in documents):
            raise BadInput(f"the spaCy pipeline sets no {name!r}; load one that is trained for it")
        notes.append(f"spaCy tag {name!r}: no token of the {len(prompts)} prompts has one")
    marked = _mark_gold(prompts, annotations=rows, fields=attributes)
    return replace(marked, notes=(*marked.notes, *notes))


def _annotated(document: Any, name: str) -> bool:
    """True if the pipeline has looked for a tag in a document, found or not."""
    # A recogniser marks every token as in or outside an entity; ENT_TYPE is set for those inside.
    asked = "ENT_IOB" if name.startswith("ent_") else name.upper()
    try:
        return bool(document.has_annotation(asked))
    except (AttributeError, KeyError, ValueError):  # no document of spaCy's, or no annotation
        return False


def _refuse_over_limit(i: int, length: int, nlp: Any) -> None:
    """Raises before spaCy does, and names the prompt."""
    limit = getattr(nlp, "max_length", math.inf)
    if length > limit:
        raise BadInput(
            f"prompt {i} has {length:,} characters, and the spaCy pipeline takes {limit:,}: split "
            "it, or raise the pipeline's max_length, for which its parser and entity recogniser "
            "need more memory"
        )


def _spacy_word(token: Any, attributes: Sequence[str]) -> dict[str, Any]:
    word = {"start": token.idx, "end": token.idx + len(token.text)}
    return word | {name: _spacy_tag(token, name) for name in attributes}


def _spacy_tag(token: Any, name: str) -> str | None:
    """A tag as text: `pos_` for `pos`, the attribute itself where there is no such text."""
    try:
        value = token.morph if name == "morph" else getattr(token, f"{name}_")
    except AttributeError as error:
        known = [tag.removesuffix("_") for tag in dir(token) if tag[-1:] == "_" and tag[0] != "_"]
        raise BadInput(
            f"spaCy tokens have no tag {name!r}{nearest(name, known)} "
            f"(known: {', '.join([*known, 'morph'])})"
        ) from error
    return str(value) or None


def _load_spacy(name: str) -> Any:
    try:
        spacy = import_module("spacy")
    except ImportError as error:
        raise BadInput(
            "spaCy is not installed; pip install 'interp-stream[linguistics]'"
        ) from error
    try:
        return spacy.load(folder_of(name) if holds(name, "pipeline") else name)
    except OSError as error:
        raise BadInput(
            f"no spaCy pipeline {name!r} here; install it: python -m spacy download {name}"
        ) from error


# --- shared -----------------------------------------------------------------------------------


def located(prompts: Prompts, i: int, what: str) -> tuple[str, Ints]:
    """Text and trimmed spans of a prompt; special tokens and spaces have empty spans."""
    text, spans = prompts.texts[i], prompts.spans[i]
    if text is None or spans is None:
        why = "it was given as ids" if text is None else "its tokenizer gives no character offsets"
        raise BadInput(
            f"cannot place {what} in prompt {i}: {why}; give texts and a fast tokenizer, or "
            "token_labels="
        )
    return text, trimmed(spans, text)


def _overlapping(spans: Ints, start: int, end: int) -> Ints:
    """Tokens that share a character with `start … end`."""
    shares = (spans[:, 0] < end) & (spans[:, 1] > start) & (spans[:, 0] < spans[:, 1])
    return np.flatnonzero(shares).astype(np.int64)
