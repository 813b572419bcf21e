"""The words of the demo language with their tags; their combination is in `language`.

Tags are Universal POS tags. Every word belongs to one category; all verbs are in the past tense.
"""

from __future__ import annotations

from typing import NamedTuple

_WOMEN = "Mary Anna Lucy Emma Sara Nora Alice Julia Helen Clara Ruth Ida"
_MEN = "John Tom Paul Peter Mark David Henry Adam Simon Oscar Frank Leo"
WOMEN = tuple(_WOMEN.split())
MEN = tuple(_MEN.split())
NAMES = WOMEN + MEN

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Germany": "Berlin",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Norway": "Oslo",
    "Poland": "Warsaw",
    "Egypt": "Cairo",
    "Japan": "Tokyo",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Chile": "Santiago",
}

PRONOUNS = {
    "woman": {"he": "she", "him": "her", "his": "her"},
    "man": {"he": "he", "him": "him", "his": "his"},
}
CASES = {"he": "subject", "him": "object", "his": "possessive"}

OPEN = {
    ("NOUN", "animal"): "dog cat horse bird fish mouse cow sheep rabbit wolf duck fox",
    ("NOUN", "food"): "apple loaf pie cookie cake pear egg potato orange carrot sandwich salad",
    ("NOUN", "tool"): "hammer knife spoon saw brush needle axe ladder shovel rope",
    ("NOUN", "place"): "market garden park school forest station library village harbour museum",
    ("NOUN", "gift"): "book letter ring hat coat lamp flower picture basket violin",
    ("NOUN", "role"): "farmer teacher doctor baker singer soldier driver sailor painter nurse",
    ("NOUN", "things"): "dogs apples books birds letters spoons horses rings eggs flowers",
    ("ADJ", "colour"): "red green blue white black yellow brown grey",
    ("ADJ", "size"): "small big tall short long little huge narrow",
    ("ADJ", "age"): "old young new ancient",
    ("ADJ", "mood"): "happy sad tired angry hungry proud nervous calm lonely thirsty",
    ("ADJ", "weather"): "sunny rainy cold warm windy foggy",
    ("ADJ", "state"): "quiet open empty closed clean crowded",
    ("NUM", "number"): "two three four five six seven",
    ("ADV", "manner"): "quietly slowly quickly happily sadly loudly gently carefully",
    ("VERB", "social"): "greeted thanked helped visited followed called introduced married admired "
    "watched invited praised hugged remembered surprised trusted",
    ("VERB", "kindness"): "rescued helped praised comforted",
    ("VERB", "speech"): "told asked warned reminded",
    ("VERB", "giving"): "gave showed sent brought",
    ("VERB", "rest"): "smiled laughed slept waited danced cried sang left worked",
    ("VERB", "motion"): "walked ran travelled hurried",
    ("VERB", "roam"): "ran slept jumped waited",
    ("VERB", "hunt"): "chased watched followed noticed",
    ("VERB", "eating"): "ate cooked tasted shared",
    ("VERB", "handling"): "used repaired dropped cleaned",
    ("VERB", "getting"): "bought found lost wanted",
    ("VERB", "keeping"): "opened carried liked washed",
}

# Each sense has its opening sentences and the noun that such a context leads to.
SENSES = {
    ("bank", "river"): (("A swam in the river .", "The boat was on the river ."), "water"),
    ("bank", "money"): (("A earned a salary .", "The thief was in the city ."), "money"),
    ("bat", "animal"): (("It was night in the cave .", "A heard wings in the dark ."), "moon"),
    ("bat", "sport"): (("A played with the team .", "The players were ready ."), "ball"),
    ("match", "fire"): (("The candle was on the table .", "A needed light ."), "fire"),
    ("match", "game"): (("The crowd was in the stadium .", "A trained for weeks ."), "goal"),
}

CLOSED = {
    "ADP": "in of to with near at about on for by after",
    "ADV": "then again later there once together also",
    "AUX": "is was were",
    "CCONJ": "and but so",
    "DET": "the a an one this",
    "PRON": "it that who",
    "PUNCT": ". , ? :",
    "SCONJ": "when because",
    "ADJ": "dark ready",
    "NOUN": "day morning evening capital city name woman man list word river boat water salary "
    "thief money night cave wings moon team players ball candle table light fire crowd stadium "
    "weeks goal animal food tool place bank bat match",
    "VERB": "met saw swam earned heard played needed trained flew lived said pointed counted "
    "wrote sat came gave called",
}


class Entry(NamedTuple):
    """A word with its tags, before it has a position in a text."""

    text: str
    pos: str
    category: str
    referent: str | None = None
    sense: str | None = None
    wrong: str | None = None


def _entries() -> dict[str, tuple[Entry, ...]]:
    table = {
        category: tuple(Entry(word, pos, category) for word in words.split())
        for (pos, category), words in OPEN.items()
    }
    table["name"] = tuple(Entry(word, "PROPN", "name", referent=word) for word in NAMES)
    table["country"] = tuple(Entry(word, "PROPN", "country") for word in CAPITALS)
    table["capital"] = tuple(Entry(word, "PROPN", "capital") for word in CAPITALS.values())
    return table


BY_CATEGORY = _entries()


def _by_word() -> dict[str, Entry]:
    closed = {
        word: Entry(word, pos, "punctuation" if pos == "PUNCT" else "function")
        for pos, words in CLOSED.items()
        for word in words.split()
    }
    for word, entry in closed.items():
        if entry.pos in {"NOUN", "ADJ", "VERB"}:
            closed[word] = entry._replace(category="other")
    # A word of both lists has the tag of its category.
    opened = {entry.text: entry for entries in BY_CATEGORY.values() for entry in entries}
    return closed | opened


BY_WORD = _by_word()


def gender(name: str) -> str:
    """`woman` or `man`."""
    return "woman" if name in WOMEN else "man"


def words() -> tuple[str, ...]:
    """Every word form of the language, sorted, punctuation left out."""
    pronouns = {form for forms in PRONOUNS.values() for form in forms.values()}
    forms = set(BY_WORD) | pronouns
    return tuple(sorted(word for word in forms if word[0].isalpha()))
