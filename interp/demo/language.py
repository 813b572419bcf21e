"""A small English-like language with gold annotations, generated from a seed.

Documents are made from sentence templates, which determine for every word its part of speech, its
category, the referent of a pronoun and the sense of an ambiguous word. The module knows nothing
about tokens or models and needs only the standard library.

Template tokens: `A` is the name of a person, `A.he`, `A.him`, `A.his` are the pronoun in that case,
`<animal>` is any word of the category, `<x=animal>` also binds it to `x`, and a leading `!` marks
an answer that the context determines.

Held out. `split="held_out"` uses other random streams than `split="train"`, and other
combinations: two names whose positions in `NAMES` add up to a multiple of five occur together only
in held-out documents, and so do a name and a place in documents about one person, and a name and
a word sense. Facts, categories, scenes and repetitions have no held-out combination: their
held-out documents differ from the training documents only by the seed, and a repetition lists
names like any other word.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from interp.demo.lexicon import (
    BY_CATEGORY,
    BY_WORD,
    CAPITALS,
    CASES,
    NAMES,
    PRONOUNS,
    SENSES,
    Entry,
    gender,
)

SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Word:
    """One word or punctuation mark; `start` and `end` are character offsets in the text.

    `referent` is the person meant by a name or a pronoun; `antecedent` is the index in
    `Document.words` of the name that a pronoun goes back to; `sense` is set on ambiguous words.
    """

    text: str
    start: int
    end: int
    pos: str
    category: str
    referent: str | None = None
    antecedent: int | None = None
    sense: str | None = None


@dataclass(frozen=True)
class Document:
    """A text of the language with its gold annotation."""

    text: str
    words: tuple[Word, ...]
    kind: str


@dataclass(frozen=True)
class Choice:
    """A prompt whose context makes `right` true and `wrong` false; both begin with a space."""

    prompt: str
    right: str
    wrong: str
    kind: str


class _Draft:
    """A document in the making: its words, its bindings and its marked answers."""

    def __init__(self, rng: random.Random, split: str, people: Sequence[str] = ()) -> None:
        self.rng = rng
        self.split = split
        self.people = dict(zip("AB", people, strict=False))
        self.bound: dict[str, Entry] = {}
        self.picked: list[Entry] = []
        self.text = ""
        self.words: list[Word] = []
        self.answers: list[tuple[int, str, str]] = []

    def write(self, *templates: str, capital: bool = True) -> None:
        """Append the sentences, with the spacing and capitals of ordinary English."""
        for template in templates:
            self.picked = []
            entries = [self._resolve(token) for token in template.split()]
            for entry, following in zip(entries, [*entries[1:], None], strict=True):
                if entry.text == "a" and following and following.text[0] in "aeiou":
                    entry = entry._replace(text="an")
                self._append(entry, capital)

    def pick(self, category: str) -> Entry:
        """A word that is new to the sentence; the place of a lone person obeys the split."""
        entries: Sequence[Entry] = BY_CATEGORY[category]
        if category == "place" and len(self.people) == 1:
            name = NAMES.index(self.people["A"])
            entries = [e for i, e in enumerate(entries) if _allowed(name, i, self.split)]
        # A word that occurs twice in a sentence would leave open which of the two is meant.
        taken = {*self.bound.values(), *self.picked}
        self.picked.append(self.rng.choice([entry for entry in entries if entry not in taken]))
        return self.picked[-1]

    def _resolve(self, token: str) -> Entry:
        marked, token = token.startswith("!"), token.removeprefix("!")
        entry, wrong = self._entry(token)
        return entry._replace(wrong=wrong) if marked else entry

    def _entry(self, token: str) -> tuple[Entry, str | None]:
        """The word that a template token stands for, and its wrong counterpart if it has one."""
        if token.startswith("<"):
            name, _, category = token.strip("<>").rpartition("=")
            entry = self.pick(category)
            if name:
                self.bound[name] = entry
            return entry, None
        if token in self.bound:
            return self.bound[token]._replace(wrong=None), self.bound[token].wrong
        role, _, case = token.partition(".")
        if role not in self.people:
            return BY_WORD.get(token) or BY_WORD[token.lower()], None
        name = self.people[role]
        if case:
            return _pronoun(name, case), _pronoun(_opposite(name), case).text
        others = [other for other in self.people.values() if other != name]
        return Entry(name, "PROPN", "name", referent=name), others[0] if others else None

    def _append(self, entry: Entry, capital: bool) -> None:
        first = not self.words or self.words[-1].text in ".?"
        text = entry.text[0].upper() + entry.text[1:] if first and capital else entry.text
        if self.words and entry.pos != "PUNCT":
            self.text += " "
        if entry.wrong is not None:
            kind = entry.category.removeprefix("pronoun_")
            self.answers.append((len(self.words), entry.wrong, kind))
        antecedent = self._last_named(entry.referent) if entry.pos == "PRON" else None
        start, end = len(self.text), len(self.text) + len(text)
        self.text += text
        self.words.append(
            Word(
                text, start, end, entry.pos, entry.category, entry.referent, antecedent, entry.sense
            )
        )

    def _last_named(self, name: str | None) -> int | None:
        named = (i for i, w in enumerate(self.words) if w.pos == "PROPN" and w.referent == name)
        return None if name is None else max(named, default=None)


def _pronoun(name: str, case: str) -> Entry:
    return Entry(PRONOUNS[gender(name)][case], "PRON", f"pronoun_{CASES[case]}", referent=name)


def _opposite(name: str) -> str:
    # Women first, then as many men: half a list further is a name of the other gender.
    half = len(NAMES) // 2
    return NAMES[(NAMES.index(name) + half) % len(NAMES)]


def held_out(i: int, j: int) -> bool:
    """True if the combination of two positions is kept for held-out documents."""
    # Every fifth combination, along diagonals: each name and each place occurs in training with
    # most of the others, so that only the combination is new.
    return (i + j) % 5 == 0


def _allowed(i: int, j: int, split: str) -> bool:
    return held_out(i, j) == (split == "held_out")


def _two_people(rng: random.Random, split: str, mixed: bool = True) -> list[str]:
    """Two names that may be together in this split; a woman and a man if `mixed`."""
    while True:
        pair = rng.sample(NAMES, 2)
        different = gender(pair[0]) != gender(pair[1])
        if _allowed(NAMES.index(pair[0]), NAMES.index(pair[1]), split) and (different or not mixed):
            return pair


# --- Documents about people -----------------------------------------------------------------------

_MEETING = (
    "A <social> B .",
    "A <social> B in the <place> .",
    "A and B <motion> to the <place> .",
    "A was in the <place> with B .",
    "A met B near the <place> .",
    "A was <mood> . B was <mood> .",
    "One day , A saw B at the <place> .",
    "A <getting> a <gift> . B <getting> a <gift> .",
)
_BETWEEN_TWO = (
    "Then A.he <social> !B.him .",
    "A.he <social> !B.him <manner> .",
    "A.he <giving> !B.him a <gift> .",
    "Later A.he <speech> !B.him about the <animal> .",
    "A <social> !B.him again .",
    "After a day , A <social> !B.him <manner> .",
    "A <social> B , and then !A.he <social> !B.him .",
    "A <kindness> B , so !B.he <social> !A.him .",
    "A.he <keeping> B.his <gift> .",
    "A.he <keeping> A.his <colour> <gift> .",
    "A.he was <mood> because B.he <rest> .",
    "A <rest> <manner> .",
    "B.he <rest> .",
)
_ASIDE = (
    "The <size> <animal> <roam> <manner> .",
    "It was a <weather> day .",
    "The <place> was <state> .",
    "The <gift> was <colour> .",
    "The <role> <rest> .",
)
_ALONE = (
    "A <motion> to the <place> .",
    "A lived near the <place> .",
    "A <getting> a <gift> at the <place> .",
    "A was <mood> in the <place> .",
    "One day , A found a <animal> in the <place> .",
    "It was a <weather> morning in the <place> . A <rest> .",
)
_ABOUT_ONE = (
    "Then !A.he <rest> <manner> .",
    "Later !A.he <eating> the <food> .",
    "The <size> <animal> <hunt> !A.him .",
    "The <role> <social> !A.him .",
    "Then the <role> <giving> !A.him a <gift> .",
    "The <age> <role> <speech> !A.him about the <animal> .",
    "There !A.he <handling> the <tool> <manner> .",
    "Once !A.he <getting> a <colour> <gift> .",
    "A.he <keeping> A.his <gift> .",
    "A.he was <mood> .",
    "A.he counted <number> <things> .",
)


def _swap(draft: _Draft) -> None:
    """Let either person be the one who acts in the next sentence."""
    if draft.rng.random() < 0.5:
        draft.people = dict(zip("AB", reversed(draft.people.values()), strict=True))


def _pair(rng: random.Random, split: str) -> _Draft:
    draft = _Draft(rng, split, _two_people(rng, split))
    draft.write(rng.choice(_MEETING))
    for _ in range(rng.randint(1, 5)):
        _swap(draft)
        if rng.random() < 0.25:
            draft.write(rng.choice(_ASIDE))
        draft.write(rng.choice(_BETWEEN_TWO))
    return draft


def _single(rng: random.Random, split: str) -> _Draft:
    draft = _Draft(rng, split, [rng.choice(NAMES)])
    draft.write(rng.choice(_ALONE))
    for _ in range(rng.randint(1, 5)):
        if rng.random() < 0.2:
            draft.write(rng.choice(_ASIDE[:2]))
        draft.write(rng.choice(_ABOUT_ONE))
    return draft


def _called(rng: random.Random, split: str) -> _Draft:
    """A document that names the woman and the man among two people."""
    draft = _Draft(rng, split, _two_people(rng, split))
    draft.write(rng.choice(_MEETING))
    for _ in range(rng.randint(0, 2)):
        _swap(draft)
        draft.write(rng.choice(_ASIDE + _BETWEEN_TWO))
    for _ in range(rng.randint(1, 2)):
        draft.people = dict(zip("AB", reversed(draft.people.values()), strict=True))
        noun = gender(draft.people["A"])
        draft.write(rng.choice((f"The {noun} was called !A .", f"The name of the {noun} was !A .")))
    return draft


def _who(rng: random.Random, split: str) -> _Draft:
    """A question about which of two people was in a mood, or did something."""
    draft = _Draft(rng, split, _two_people(rng, split))
    by_name = "A was <p=mood> . B was <q=mood> ."
    by_pronoun = "A <social> B . A.he was <p=mood> , but B.he was <q=mood> ."
    draft.write(rng.choice((by_name, by_pronoun)))
    if rng.random() < 0.3:
        draft.write(rng.choice(_ASIDE))
    questions = ["Who was p ? !A .", "Who was q ? !B ."]
    draft.write(*rng.sample(questions, rng.randint(1, 2)))
    return draft


def _giving(rng: random.Random, split: str) -> _Draft:
    """A gift, whose receiver is the one who did not give; the two may be of one gender."""
    # Of one gender, a pronoun cannot tell the two apart: only their roles do.
    draft = _Draft(rng, split, _two_people(rng, split, mixed=False))
    draft.write(
        *rng.choice(
            (
                ("When A and B were in the <place> , A <giving> the <gift> to !B .",),
                ("When A and B were in the <place> , B <giving> the <gift> to !A .",),
                ("A and B <getting> a <g=gift> .", "Then A <giving> the g to !B ."),
                ("A and B <getting> a <g=gift> .", "Then B <giving> the g to !A ."),
                ("A met B .", "Later B <giving> a <gift> to !A ."),
                ("A met B .", "Later A <giving> a <gift> to !B ."),
            )
        )
    )
    if rng.random() < 0.5:
        draft.write(rng.choice(_ASIDE))
    return draft


# --- Documents about things -----------------------------------------------------------------------


def _fact(rng: random.Random, split: str) -> _Draft:
    """Countries and their capitals, one to four at a time."""
    draft = _Draft(rng, split, [rng.choice(NAMES)])
    for country in rng.sample(tuple(CAPITALS), rng.randint(1, 4)):
        other = rng.choice([name for name in CAPITALS if name != country])
        draft.bound = {
            "F": BY_WORD[country]._replace(wrong=other),
            "C": BY_WORD[CAPITALS[country]]._replace(wrong=CAPITALS[other]),
        }
        draft.write(
            rng.choice(
                (
                    # Listed twice, to be drawn twice as often as each of the others.
                    "The capital of F is !C .",
                    "The capital of F is !C .",
                    "C is the capital of !F .",
                    "C is a city in !F .",
                    "A flew to C , the capital of !F .",
                    "A lived in F , in the city of !C .",
                )
            )
        )
    return draft


def _sense(rng: random.Random, split: str) -> _Draft:
    """An ambiguous word whose sense follows from the sentence before it."""
    keys = tuple(SENSES)
    index = rng.randrange(len(keys))
    people = [name for i, name in enumerate(NAMES) if _allowed(i, index, split)]
    draft = _Draft(rng, split, [rng.choice(people)])
    word, sense = keys[index]
    contexts, noun = SENSES[keys[index]]
    other = next(SENSES[key][1] for key in keys if key[0] == word and key[1] != sense)
    draft.bound = {
        "W": BY_WORD[word]._replace(category="ambiguous", sense=sense),
        "N": BY_WORD[noun]._replace(wrong=other),
    }
    draft.write(rng.choice(contexts))
    draft.write(
        rng.choice(
            (
                "Then A saw the W and the !N .",
                "A pointed at the W and the !N .",
                "Later A said that the W was near the !N .",
                "The <role> wrote about the W and the !N .",
            )
        )
    )
    return draft


def _category(rng: random.Random, split: str) -> _Draft:
    """The categories of a few things."""
    draft = _Draft(rng, split)
    sorts = ("animal", "food", "tool", "place")
    for sort in rng.sample(sorts, rng.randint(1, 4)):
        wrong = rng.choice([other for other in sorts if other != sort])
        draft.bound["K"] = BY_WORD[sort]._replace(wrong=wrong)
        draft.write(rng.choice((f"A <{sort}> is a !K .", f"The <{sort}> was the <colour> !K .")))
    return draft


_SCENES = (
    "The <size> <animal> <hunt> the <colour> <animal> near the <place> .",
    "The <role> <eating> the <food> and the <food> <manner> .",
    "The <age> <role> <handling> the <tool> in the <place> .",
    "The <role> counted <number> <things> .",
    "A <colour> <gift> was in the <place> .",
    "The <role> was <mood> because the <animal> <roam> <manner> .",
    "The <place> was <state> , but the <role> <rest> .",
    "It was a <weather> evening .",
    "The <role> and the <role> <motion> to the <place> together .",
)


def _scene(rng: random.Random, split: str) -> _Draft:
    """A few sentences without named people."""
    draft = _Draft(rng, split)
    draft.write(*(rng.choice(_SCENES) for _ in range(rng.randint(1, 5))))
    return draft


_CONTENT = {"NOUN", "PROPN", "VERB", "ADJ", "ADV", "NUM"}
_CONTENT_WORDS = tuple(entry for entry in BY_WORD.values() if entry.pos in _CONTENT)


def _repeat(rng: random.Random, split: str) -> _Draft:
    """A random sequence of words that occurs two or three times."""
    draft = _Draft(rng, split, _two_people(rng, split))
    chosen = rng.sample(_CONTENT_WORDS, rng.randint(3, 12))
    names = [f"w{i}" for i in range(len(chosen))]
    draft.bound = dict(zip(names, chosen, strict=True))
    draft.bound["last"] = chosen[-1]._replace(wrong=chosen[0].text)
    start = " ".join(names[:-1])
    bare = (f"{start} {names[-1]}", f"{start} !last")
    said = (f"A said : {start} {names[-1]} .", f"Then B said : {start} !last .")
    listed = tuple(t.replace(" ", " , ") + " ." for t in bare)
    framed = tuple(f"The list is : {t}" for t in listed)
    templates = rng.choice((bare, bare, said, framed))
    # Three long rounds would not fit in the context of the models.
    again = rng.randint(0, 1) if len(chosen) < 8 else 0
    draft.write(*templates, *(templates[-1:] * again), capital=templates is not bare)
    return draft


_WRITERS: dict[str, Callable[[random.Random, str], _Draft]] = {
    "pair": _pair,
    "single": _single,
    "called": _called,
    "who": _who,
    "giving": _giving,
    "fact": _fact,
    "sense": _sense,
    "category": _category,
    "scene": _scene,
    "repeat": _repeat,
}
_SHARES = {"pair": 6, "single": 3, "called": 2, "who": 2, "repeat": 2}
KINDS = tuple(_WRITERS)

# Which documents can pose which choice.
CHOICE_KINDS = {
    "subject": ("pair", "single"),
    "object": ("pair", "single"),
    "called": ("called",),
    "who": ("who",),
    "giving": ("giving",),
    "fact": ("fact",),
    "sense": ("sense",),
    "category": ("category",),
    "repeat": ("repeat",),
}
PRONOUN_CHOICES = ("subject", "object")
REFERENT_CHOICES = ("called", "who", "giving")


def _check(value: str, allowed: Sequence[str], what: str) -> None:
    if value not in allowed:
        raise ValueError(f"unknown {what} {value!r}; choose from {', '.join(allowed)}")


def _drafts(seed: int, kinds: Sequence[str], split: str) -> Iterator[tuple[str, _Draft]]:
    _check(split, SPLITS, "split")
    for kind in kinds:
        _check(kind, KINDS, "kind of document")
    # A string seed is hashed with SHA-512 by `random`, so it means the same on every machine.
    rng = random.Random(f"{split}:{seed}")
    weights = [_SHARES.get(kind, 1) for kind in kinds]
    for _ in count():
        kind = rng.choices(kinds, weights)[0]
        yield kind, _WRITERS[kind](rng, split)


def generate(
    n: int, seed: int, kinds: Sequence[str] | None = None, split: str = "train"
) -> list[Document]:
    """`n` documents; the same arguments always give the same documents.

    >>> generate(1, seed=0, kinds=["fact"])[0].kind
    'fact'
    """
    drafts = _drafts(seed, KINDS if kinds is None else tuple(kinds), split)
    return [_document(kind, draft) for kind, draft in islice(drafts, n)]


def _document(kind: str, draft: _Draft) -> Document:
    return Document(draft.text, tuple(draft.words), kind)


def her_documents(n: int = 54, seed: int = 0) -> list[Document]:
    """Held-out documents with one "her", the object of the verb right before it.

    All differ, and no length in words is used more than three times.
    """
    found: dict[str, Document] = {}
    lengths: dict[int, int] = {}
    for kind, draft in _drafts(seed, ("pair", "single"), "held_out"):
        if len(found) == n:
            break
        # Documents of one length would have "her" at one position, and an effect of position could
        # not be told from one of the word.
        length = len(draft.words)
        if draft.text in found or lengths.get(length, 0) == 3 or not _has_object_her(draft):
            continue
        lengths[length] = lengths.get(length, 0) + 1
        found[draft.text] = _document(kind, draft)
    return list(found.values())


def _has_object_her(draft: _Draft) -> bool:
    spots = [i for i, word in enumerate(draft.words) if word.text.lower() == "her"]
    if len(spots) != 1:
        return False
    her, before = draft.words[spots[0]], draft.words[spots[0] - 1]
    return her.category == "pronoun_object" and before.pos == "VERB"


def demo_documents(n: int = 40, seed: int = 0) -> list[Document]:
    """Held-out documents of every kind in turn."""
    each = {kind: generate(-(-n // len(KINDS)), seed, [kind], "held_out") for kind in KINDS}
    return [each[KINDS[i % len(KINDS)]][i // len(KINDS)] for i in range(n)]


def choices(n: int, seed: int, kind: str = "object", split: str = "held_out") -> list[Choice]:
    """`n` two-choice cases; one document gives at most one.

    >>> choices(1, seed=0, kind="object")[0].right in (" her", " him")
    True
    """
    _check(kind, tuple(CHOICE_KINDS), "kind of choice")
    drafts = _drafts(seed, CHOICE_KINDS[kind], split)
    return list(islice((c for _, draft in drafts for c in _choice(draft, kind)), n))


def _choice(draft: _Draft, kind: str) -> list[Choice]:
    """One answer of this kind, or none, picked at random from those that the draft marks."""
    pronoun = kind in PRONOUN_CHOICES
    answers = [a for a in draft.answers if not pronoun or a[2] == kind]
    if not pronoun:
        answers = [a for a in answers if a[2] not in PRONOUN_CHOICES]
    if not answers:
        return []
    index, wrong, _ = draft.rng.choice(answers)
    word = draft.words[index]
    # The space goes with the continuation, as it does in the tokens of the models.
    return [Choice(draft.text[: word.start - 1], f" {word.text}", f" {wrong}", kind)]
