"""Word frequencies as a label: how often the word that a token belongs to is used in a language.

Knows words of texts; the numbers are those of the package `wordfreq`, which is optional.
"""

from __future__ import annotations

from functools import lru_cache, partial
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import BadInput, nearest
from interp.prompts.labels import located
from interp.prompts.prompts import Labeller
from interp.prompts.tokens import align, words

if TYPE_CHECKING:
    from interp.prompts.prompts import Prompts

ZIPF = "zipf"


def word_frequency(language: str = "en", *, name: str = ZIPF) -> Labeller:
    """Labels each token with the frequency of its word on the Zipf scale.

    The scale is log10 of the occurrences in a billion words: "the" has 7.7, most words of a text
    lie between 3 and 7. All tokens of a word have the value of the whole word (words as `Prompts`
    counts them), whatever its case. Words that the list lacks, punctuation and special tokens have
    none (NaN in tables). Of numbers `wordfreq` gives an estimate by the number of their digits.

    Args:
        language: a code that `wordfreq` knows, such as "en", "de" or "zh".
        name: the label column.

    Raises:
        BadInput: `wordfreq` is not installed, it has no list of that language (or needs another
            package to cut its words), or a prompt has no character spans.

    Source: van Heuven et al., Quarterly Journal of Experimental Psychology 67 (2014), for the
    scale; Speer, wordfreq (2022), for the numbers: code under Apache-2.0, data under CC BY-SA 4.0,
    as of about 2021.
    """
    return partial(_mark_frequency, language=language, name=name)


def _mark_frequency(prompts: Prompts, *, language: str, name: str) -> Prompts:
    frequency = _looked_up(language)
    columns, known, unknown = [], 0, 0
    for i in range(len(prompts)):
        text, spans = located(prompts, i, "word frequencies")
        intervals = words(text)
        values = [frequency(text[start:end]) for start, end in intervals.tolist()]
        which = align(spans, intervals)
        which[prompts.special[i]] = -1
        cells = [None if k < 0 else values[k] for k in which.tolist()]
        columns.append(np.fromiter(cells, dtype=object, count=len(cells)))
        of_words = {k for k in which.tolist() if k >= 0}
        known += sum(values[k] is not None for k in of_words)
        unknown += sum(values[k] is None for k in of_words)
    if not known:
        raise BadInput(
            f"no word of the {len(prompts)} prompts is in the list of {language!r}: is that their "
            "language?"
        )
    note = (
        f"{name}: Zipf frequency (log10 per 10⁹ words) of the token's word, wordfreq "
        f"{version('wordfreq')}, language {language!r}; {unknown} of {known + unknown} words and "
        "signs have none"
    )
    return prompts.with_labels(name, columns, note=note)


def _looked_up(language: str) -> Any:
    """A function from a word to its Zipf frequency, None where it is not in the list."""
    try:
        package = import_module("wordfreq")
    except ImportError as error:
        raise BadInput(
            "word frequencies come from the package wordfreq, which is not installed; "
            "pip install 'interp-stream[words]'"
        ) from error

    @lru_cache(maxsize=1 << 16)
    def frequency(word: str) -> float | None:
        return float(package.zipf_frequency(word, language)) or None

    try:
        frequency("a")
    except LookupError as error:
        known = sorted(package.available_languages("best"))
        raise BadInput(
            f"wordfreq has no words of the language {language!r}{nearest(language, known)} "
            f"(known: {', '.join(known)})"
        ) from error
    except ImportError as error:
        raise BadInput(
            f"wordfreq cuts words of {language!r} with a package that is not installed "
            f"({error.name}); pip install 'wordfreq[cjk]'"
        ) from error
    return frequency
