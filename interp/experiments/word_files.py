"""Words with a vector each, from static vector files, models, tables or arrays.

Knows tokenizers by what they return and models by `W_E`, `W_U` and `tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from interp._arrays import Floats, Ints
from interp._files import reading
from interp.errors import BadInput, UnknownName, unknown
from interp.experiments.words import WordVectors
from interp.measures.matrices import matrix
from interp.models.weights import MATRICES, embedding_matrix
from interp.prompts.packages import folder_of, holds
from interp.prompts.tokens import special_ids
from interp.prompts.user_files import byte_lines, opened, regular, shown, similar, suffix_of

Pieces = Literal["mean", "last"]
PIECES = ("mean", "last")
_BINARY = (".bin",)


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens that words are made of: `table [tokens, d]`, and each word's rows of it."""

    table: Floats
    rows: Mapping[str, Ints]

    def vectors(self, words: Sequence[str], table: Floats) -> Floats:
        """Mean of each word's rows: `[len(words), d]`."""
        return np.asarray([table[self.rows[word]].mean(axis=0) for word in words], np.float64)


@dataclass(frozen=True, eq=False, repr=False)
class WordSpace:
    """A vector per word: `vectors [n, d]` float64, `words [n]` all different.

    `source` is the origin of the vectors and `notes` are caveats (duplicates, pieces); `tokens`
    holds the pieces if some words have several.

    >>> space = WordSpace(("cat", "dog"), np.eye(2))
    >>> space.rows(["dog"]).tolist()
    [[0.0, 1.0]]
    """

    words: tuple[str, ...]
    vectors: Floats
    source: str = "word vectors"
    notes: tuple[str, ...] = ()
    tokens: Tokens | None = None
    _row: Mapping[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rows = matrix(self.vectors, self.source)
        if len(rows) != len(self.words):
            raise BadInput(f"{self.source}: {len(self.words)} words, but {len(rows)} vectors")
        row = {word: i for i, word in enumerate(self.words)}
        if len(row) < len(self.words):
            twice = next(w for i, w in enumerate(self.words) if row[w] != i)
            raise BadInput(f"{self.source}: word {twice!r} is there twice; keep one of them")
        object.__setattr__(self, "vectors", rows)
        object.__setattr__(self, "_row", row)

    def __len__(self) -> int:
        return len(self.words)

    def __repr__(self) -> str:
        first = ", ".join(self.words[:3]) + (", …" if len(self.words) > 3 else "")
        return (
            f"<WordSpace {self.source}: {len(self):,} words ({first}), {self.vectors.shape[1]} d>"
        )

    def __contains__(self, word: object) -> bool:
        return word in self._row

    def rows(self, words: Sequence[str]) -> Floats:
        """The vectors of these words, in their order: `[len(words), d]`."""
        for word in words:
            if word not in self._row:
                raise unknown(f"word of {self.source}", word, self.words[:2000])
        chosen: Floats = self.vectors[[self._row[word] for word in words]]
        return chosen

    def permuted(self, words: Sequence[str], rng: np.random.Generator) -> Floats:
        """Vectors of these words, permuted, as a null: `[len(words), d]`.

        The vectors change places between the words. Words of several tokens are rebuilt from
        permuted tokens: words that share a token still share one, and the similarity that this
        causes in any model, trained or not, belongs to the null.
        """
        if self.tokens is None:
            return self.rows(words)[rng.permutation(len(words))]
        used = np.unique(np.concatenate([self.tokens.rows[word] for word in words]))
        table = self.tokens.table.copy()
        table[used] = table[rng.permutation(used)]
        return self.tokens.vectors(words, table)

    def explore(self) -> WordVectors:
        """The same words as `interp.WordVectors`: neighbours, analogies, axes, pictures."""
        return WordVectors(self.vectors, self.words)


# ---- files -----------------------------------------------------------------------------------


def read_word_vectors(
    path: str | Path, *, binary: bool | None = None, limit: int | None = None
) -> WordSpace:
    """Read static word vectors: word2vec text or binary, or GloVe text.

    A text file has a word and its numbers per line, separated by spaces or a TAB; word2vec's has a
    first line with the number of words and dimensions, GloVe's has none. A byte-order mark,
    Windows line ends and blank lines are skipped; a file named `.gz` is unpacked. For a repeated
    word the first vector counts; `notes` has the number of repetitions. Binary files are read by
    gensim (extra `vectors`).

    Args:
        path: the file; .bin (or .bin.gz) is binary, everything else text unless `binary` is given;
            or `"glove"`, the vectors that the command `interp get glove` fetches.
        limit: number of words to read from the start, which in most files are the most frequent.

    Raises `UnknownName` for a file that does not exist; `BadInput` for a path that is no file, a
    file that is cut short, or a bad line (with its number).
    """
    if limit is not None and limit < 1:
        raise BadInput(f"limit is {limit!r}; allowed is 1 or more, or None for all")
    if holds(str(path), "vectors"):
        return _fetched(str(path), limit)
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        raise UnknownName(f"unknown file of word vectors {shown(path)!r}{similar(path)}")
    regular(path)
    if suffix_of(path) in _BINARY if binary is None else binary:
        return _read_binary(path, limit)
    return _read_text(path, limit)


def _fetched(name: str, limit: int | None) -> WordSpace:
    """Vectors of a package: a NumPy file, and a table of words in the same order."""
    folder = folder_of(name)
    with reading(folder, f"fetch it again: interp get {name}"):
        vectors = np.load(next(folder.glob("*.npy")), mmap_mode="r")[:limit]
        words = pd.read_parquet(next(folder.glob("*.parquet")))["index"].tolist()[:limit]
    return WordSpace(tuple(words), np.asarray(vectors, np.float64), name)


def _read_text(path: Path, limit: int | None) -> WordSpace:
    seen: dict[str, Floats] = {}
    announced: tuple[int, int] | None = None
    lines = twice = 0
    for number, line in _lines(path):
        parts = _parts(line)
        if number == 1 and len(parts) == 2 and all(p.isdecimal() for p in parts):
            announced = int(parts[0]), int(parts[1])
            continue
        if limit is not None and lines == limit:
            break
        width = announced[1] if announced else len(next(iter(seen.values()), parts[1:]))
        word, vector = _parsed(path, number, parts, width)
        lines, twice = lines + 1, twice + (word in seen)
        seen.setdefault(word, vector)
    if not seen:
        raise BadInput(f"{shown(path)!r} holds no word vectors")
    if announced and lines < min(announced[0], limit or announced[0]):
        raise BadInput(
            f"{shown(path)!r} is cut short: its first line promises {announced[0]} words, "
            f"it has {lines}"
        )
    space = _built(path, list(seen), np.stack(list(seen.values())), twice)
    if announced and limit is None and lines > announced[0]:
        note = f"the first line of {shown(path.name)} promises {announced[0]} words; all {lines} "
        space = replace(space, notes=(*space.notes, note + "were read"))
    return space


def _built(path: Path, words: Iterable[str], vectors: Any, twice: int) -> WordSpace:
    name = shown(path.name)
    notes = (f"{twice} words of {name} are there twice; the first counts",) if twice else ()
    return WordSpace(tuple(words), np.asarray(vectors, np.float64), name, notes)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank; only "\\n" ends one, words may hold other spaces."""
    for number, raw in enumerate(byte_lines(path), start=1):
        try:
            line = raw.decode("utf-8").removeprefix("\ufeff").rstrip(" \t\r\n")
        except UnicodeDecodeError as error:
            raise BadInput(
                f"{shown(path)!r}, line {number}: not UTF-8; if the file is word2vec's binary "
                "format, pass binary=True"
            ) from error
        if line:
            yield number, line


def _parts(line: str) -> list[str]:
    """A word, or the pieces of one that holds spaces, and its numbers."""
    word, tab, numbers = line.partition("\t")
    if tab:
        return [word, *numbers.split()]
    first, *rest = line.split(" ")
    return [first, *(part for part in rest if part)]


def _parsed(path: Path, number: int, parts: list[str], width: int) -> tuple[str, Floats]:
    """A word, which may hold spaces (GloVe's 840B does), and its numbers."""
    where = f"{shown(path)!r}, line {number}"
    if len(parts) - 1 < max(width, 1):
        raise BadInput(
            f"{where}: {len(parts) - 1} numbers after the word, expected {max(width, 1)}; "
            "the line, or the file, is cut short"
        )
    cut = len(parts) - width
    if cut > 1 and all(map(_is_number, parts[1:cut])):
        raise BadInput(
            f"{where}: {len(parts) - 1} numbers after the word, expected {width}; this line, or "
            "the first one, is damaged"
        )
    try:
        vector = np.asarray(parts[cut:], dtype=np.float64)
    except ValueError as error:
        raise BadInput(f"{where}: not a word and {width} numbers ({error})") from error
    if not np.isfinite(vector).all():
        raise BadInput(f"{where}: the vector of {parts[0]!r} holds NaN or infinity")
    return " ".join(parts[:cut]), vector


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_binary(path: Path, limit: int | None) -> WordSpace:
    try:
        models = import_module("gensim.models")
    except ImportError as error:
        raise BadInput(
            f"{shown(path)!r} is binary, which gensim reads: pip install 'interp-stream[vectors]' "
            "(text formats need nothing)"
        ) from error
    try:
        found = models.KeyedVectors.load_word2vec_format(str(path), binary=True, limit=limit)
    except (EOFError, ValueError, UnicodeDecodeError, OSError) as error:
        raise BadInput(
            f"{shown(path)!r} cannot be read as word2vec's binary format; it is cut short or of "
            f"another kind ({type(error).__name__}: {error})"
        ) from error
    # Of words that are there twice gensim leaves empty places at the end.
    words = [word for word in found.index_to_key if word is not None]
    with opened(path) as file:
        promised = int(file.readline().split()[0])
    twice = min(promised, limit or promised) - len(words)
    return _built(path, words, found.vectors[: len(words)], twice)


# ---- models, tables, arrays ------------------------------------------------------------------


def model_space(
    model: Any, which: str, words: Sequence[str] | None = None, *, pieces: Pieces = "mean"
) -> WordSpace:
    """Rows of a model's `W_E`, or columns of its `W_U`, by word.

    Without `words`: the words that are one token in running text, after a space; pieces from
    inside words do not count. With `words`: a word of several tokens gets the `mean` of their
    vectors or the `last` one. Words with an unknown piece are left out and counted.

    Raises `UnknownName` for another way to join pieces, `BadInput` for another matrix or a model
    without a tokenizer, `Unsupported` for a model without this matrix.
    """
    rows = embedding_matrix(model, which)
    if pieces not in PIECES:
        raise unknown("way to join pieces", pieces, PIECES)
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise BadInput(f"the model has no tokenizer, so no row of its {which} is a word")
    table = matrix(rows, which)
    name = str(getattr(model.cfg, "model_name", None) or type(model).__name__)
    encoded = encode_words(words, tokenizer) if words else vocabulary(tokenizer)
    limit = min(len(table), len(tokenizer))
    usable = {w: ids for w, ids in encoded.items() if ids and max(ids) < limit}
    notes = []
    lost = len(encoded) - len(usable)
    if lost:
        notes.append(f"{lost} words cannot be written in the tokens of {name}")
    several = sum(len(ids) > 1 for ids in usable.values())
    if several:
        notes.append(f"{several} words are several tokens of {name}: {pieces} of their vectors")
    made = Tokens(
        table,
        {w: np.asarray(i if pieces == "mean" else i[-1:], np.int64) for w, i in usable.items()},
    )
    vectors = made.vectors(list(usable), table).reshape(-1, table.shape[1])
    kept = made if several else None
    return WordSpace(tuple(usable), vectors, f"{name} {which}", tuple(notes), kept)


def encode_words(words: Sequence[str], tokenizer: Any) -> dict[str, list[int]]:
    """Token ids of each word as in running text; none if a piece is unknown or special.

    The ids are those that the word adds to the text "a": it then has a space before it, however
    the tokenizer marks that.
    """
    unique = list(dict.fromkeys(words))
    never = {*special_ids(tokenizer), getattr(tokenizer, "unk_token_id", None)}
    texts = ["a", *(f"a {word}" for word in unique)]
    before, *encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    n = len(before)
    out = {}
    for word, ids in zip(unique, encoded, strict=True):
        own = list(ids[n:]) if list(ids[:n]) == list(before) else []
        out[word] = [] if never & set(own) else own
    return out


def vocabulary(tokenizer: Any) -> dict[str, list[int]]:
    """Words that are one token in running text, in the order of their ids."""
    special = set(special_ids(tokenizer))
    ids = [i for i in range(len(tokenizer)) if i not in special]
    texts = (str(tokenizer.decode([i], clean_up_tokenization_spaces=False)).strip() for i in ids)
    # Punctuation and numbers have no counterpart with the same meaning in another vocabulary.
    words = [text for text in texts if text.isalpha()]
    encoded = encode_words(words, tokenizer)
    return {word: ids for word, ids in encoded.items() if len(ids) == 1}


def frame_space(frame: pd.DataFrame, name: str) -> WordSpace:
    """A table with a column `word` (else its index) and numeric columns as dimensions.

    Rows of one word are averaged, which is counted in the notes.
    """
    labels = frame["word"] if "word" in frame else frame.index.to_series()
    numbers = frame.drop(columns=["word"], errors="ignore").select_dtypes("number")
    if numbers.empty:
        raise BadInput(f"{name} has no numeric columns (columns: {', '.join(map(str, frame))})")
    matrix(numbers.to_numpy(dtype=np.float64, na_value=np.nan), name)
    joined = numbers.groupby(labels.astype(str).to_numpy(), sort=False).mean()
    several = len(frame) - len(joined)
    notes = (f"{several} rows of {name} repeat a word and are averaged",) if several else ()
    words = tuple(str(w) for w in joined.index)
    return WordSpace(words, joined.to_numpy(np.float64), name, notes)


def _of_tokens(given: WordVectors, name: str) -> WordSpace:
    """Words without the space before them; " king" wins over "king", as in running text."""
    order = sorted(range(len(given.words)), key=lambda i: not given.words[i].startswith(" "))
    row: dict[str, int] = {}
    for i in order:
        row.setdefault(given.words[i].strip(), i)
    row.pop("", None)
    lost = len(given.words) - len(row)
    notes = (f"{lost} tokens of {name} are the same word as another one",) if lost else ()
    vectors = np.asarray(given.vectors, np.float64)[list(row.values())]
    return WordSpace(tuple(row), vectors, name, notes)


def named_space(source: Any) -> Any:
    """A word-vector file, or a matrix of a model, that a text names: `gpt2:W_U`; `gpt2` is W_E.

    Anything but a text is returned as it is. Raises `UnknownName` for another matrix.
    """
    if not isinstance(source, str):
        return source
    model, colon, matrix = source.rpartition(":")
    if colon and matrix.startswith("W_"):
        if matrix not in MATRICES:
            raise unknown("matrix", matrix, MATRICES)
        return model, matrix
    if holds(source, "vectors"):
        return read_word_vectors(source)
    path = Path(source)
    if path.is_file() or (suffix_of(path) in (".txt", ".vec", ".bin") and not path.is_dir()):
        return read_word_vectors(path)
    return source, "W_E"


def word_space(
    source: Any, name: str, words: Sequence[str] | None = None, *, pieces: Pieces = "mean"
) -> WordSpace:
    """Words and vectors of any source that `compare_spaces` takes.

    Raises `BadInput` for anything else, with the allowed sources.
    """
    if isinstance(source, WordSpace):
        return source
    if isinstance(source, WordVectors):
        return _of_tokens(source, name)
    if isinstance(source, pd.DataFrame):
        return frame_space(source, name)
    if isinstance(source, tuple | list) and len(source) == 2:
        first, second = source
        if isinstance(second, str):
            from interp.models.load import load_model

            return model_space(load_model(first), second, words, pieces=pieces)
        return WordSpace(tuple(str(w) for w in second), matrix(first, name), name)
    raise BadInput(
        f"{name} is {type(source).__name__}; allowed: (model, 'W_E'), (model, 'W_U'), "
        "WordSpace, WordVectors, a table with a column 'word', or (array [n, d], words)"
    )
