"""Similarity of layers, within a model or between two, on the same words in the same prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from interp.errors import BadInput
from interp.experiments.controls import with_untrained_copy
from interp.experiments.token_vectors import prompts_for, word_states
from interp.experiments.word_files import Pieces
from interp.measures.similarity import LEAST, Metric, measure, similarity_null
from interp.measures.streamed import layer_pairs
from interp.models.load import load_model
from interp.prompts.prompts import Prompts
from interp.prompts.tokens import words as word_spans
from interp.render.drawing import Drawing, cell_rows
from interp.render.finding import WHERE_ALL, Finding
from interp.stats.nulls import Null, undecided

COLUMNS = {
    "layer_a": "state of model a; 0 enters its first block",
    "layer_b": "state of model b; 0 enters its first block",
    "value": "the similarity",
    "null_mean": "its mean when the prompts of b are permuted",
    "null_sd": "its standard deviation then",
    "p": "share of permutations with at least this similarity, never 0",
    "p_max": "the same against the largest similarity of all pairs of layers in each permutation",
}


ALPHA = 0.05


@dataclass(frozen=True, eq=False, repr=False)
class LayerComparison(Finding):
    """Similarity of every pair of layers, with its null: the answer of `compare_layers`.

    Attributes:
        frame: one row per pair; `COLUMNS` gives the meaning of the columns.
        method: the similarity.
        words: the words compared: `prompt`, `word`, `text`.
        notes: words and prompts that were used or left out.
        a, b: names of the models.
    """

    name = "layers"
    question = "Which layers of the two models order the same words alike?"
    columns = COLUMNS

    frame: pd.DataFrame
    method: str
    words: pd.DataFrame
    notes: tuple[str, ...]
    a: str
    b: str

    @property
    def best(self) -> dict[str, float]:
        """The row of the most similar pair; read its `p_max`, not its `p`."""
        row = int(self.frame["value"].to_numpy().argmax())
        return {str(name): float(x) for name, x in self.frame.iloc[row].items()}

    def matrix(self, column: str = "value") -> pd.DataFrame:
        """A column as layers of a (rows) by layers of b."""
        return self.frame.pivot_table(index="layer_a", columns="layer_b", values=column)

    @property
    def sentence(self) -> str:
        """The most similar pair of states, with its null, and the number of pairs above theirs."""
        best, (above, pairs) = self.best, self._above
        return (
            f"{self.method} of {self.a} (rows) and {self.b} (columns): state "
            f"{best['layer_a']:.0f} and state {best['layer_b']:.0f} are most alike, "
            f"{best['value']:.3f} (with prompts permuted {best['null_mean']:.3f} on average; "
            f"p = {best['p_max']:.2g} against the best pair of each permutation); {above} of "
            f"{pairs} pairs have p < {ALPHA} in that sense"
        )

    @property
    def _above(self) -> tuple[int, int]:
        """Number of pairs with a small family-wise p, and of all pairs."""
        return int((self.frame["p_max"] < ALPHA).sum()), len(self.frame)

    @property
    def short(self) -> pd.DataFrame:
        """The similarity as layers of a (rows) by layers of b."""
        return self.matrix().rename_axis(columns=None).reset_index()

    def _more(self, rows: int, columns: int) -> str:
        """What was not printed: of a matrix with every value, the other columns only."""
        if rows < len(self.short):
            return super()._more(rows, columns)
        return f"shown: every similarity, as a matrix; the table also has its nulls ({WHERE_ALL})"

    @property
    def drawings(self) -> Mapping[str, Drawing]:
        """Heat map of the similarity."""
        table, best, (above, pairs) = self.matrix(), self.best, self._above
        null = self.frame["null_mean"].mean()
        caption = (
            f"{'; '.join(self.notes)}. Most alike: state {best['layer_a']:.0f} and state "
            f"{best['layer_b']:.0f} ({best['value']:.2f}, p = {best['p_max']:.2g} against the best "
            f"pair of each permutation). {above} of {pairs} pairs have p < {ALPHA} in that sense."
        )
        drawing = Drawing(
            "heat",
            f"{self.method}: layers of {self.a} and {self.b}",
            cell_rows(table),
            self.method,
            f"state of {self.b}",
            caption,
            f"Control: with prompts permuted the mean over all pairs is {null:.2f}.",
            options={"y": f"state of {self.a}", "cell": (46, 30), "high": 1.0},
        )
        return {"Similarity": drawing}


def compare_layers(
    a: Any,
    b: Any,
    prompts: Any,
    *,
    method: str = "cka",
    per_prompt: int = 4,
    pieces: Pieces = "last",
    k: int = 10,
    metric: Metric = "cosine",
    prepend_bos: bool | None = None,
    resamples: int = 200,
    seed: int = 0,
    control: str | None = None,
) -> LayerComparison:
    """Compare every layer of model a with every layer of model b on the same words.

    The models may have different tokenizers and widths: words are matched by their place in the
    text. The same number of words is drawn from every prompt. The null permutes whole prompts of
    b, because the words of one prompt are not independent; `p_max` corrects for the choice of the
    best pair. The null means "nothing in common", and equal input embeddings of equal words are
    enough to exceed it: compare with the untrained copy too.

    Args:
        a: a model: demo, demo-llama, a hub name or a folder. In Python also a bridge.
        b: a second model; the same model twice compares its layers with each other.
        prompts: texts, as for `run`; ids have no words that two models could share.
        method: the similarity: cka (debiased), cka_biased, rsa, mutual_knn or svcca.
        per_prompt: words drawn per prompt; prompts with fewer are left out and counted.
        pieces: state of a word of several tokens: last (of its last token) or mean.
        k: number of neighbours for mutual_knn.
        metric: distance for rsa: cosine, correlation or euclidean.
        prepend_bos: each model's own policy unless given.
        resamples: number of permutations.
        seed: seed of the permutations and of the draw of words.
        control: repeat with an untrained copy of the second model: random-init.

    Raises `BadInput` if the models read different texts or share too few words, `UnknownName` for
    another method.
    """
    kind = measure(method, k=k, metric=metric)
    if per_prompt < 1:
        raise BadInput(f"per_prompt is {per_prompt!r}; allowed is 1 or more")
    model_a = load_model(a)
    same = b is a or (isinstance(b, str) and a == b)
    model_b = model_a if same else load_model(b)
    read_a = prompts_for(model_a, prompts, prepend_bos=prepend_bos)
    same = model_b is model_a
    read_b = read_a if same else prompts_for(model_b, prompts, prepend_bos=prepend_bos)
    words, notes = _words(read_a, read_b, per_prompt, seed)
    states_a = word_states(model_a, read_a, words, pieces=pieces)
    states_b = states_a
    if model_b is not model_a:
        states_b = word_states(model_b, read_b, words, pieces=pieces)
    # Words of a prompt share their context, so the null moves them together.
    clusters = words["prompt"].tolist()
    null = similarity_null(
        list(states_a), list(states_b), kind, resamples=resamples, seed=seed, clusters=clusters
    )
    names = (str(getattr(m.cfg, "model_name", type(m).__name__)) for m in (model_a, model_b))
    notes += undecided(null.smallest_p_max)
    found = LayerComparison(_frame(null), method, words, notes, *names)
    asked: dict[str, Any] = {"method": method, "per_prompt": per_prompt, "pieces": pieces, "k": k}
    asked |= {"metric": metric, "prepend_bos": prepend_bos, "resamples": resamples, "seed": seed}
    again = partial(_with_copy, model_a, prompts, **asked)
    return with_untrained_copy(found, control, model_b, again)


def _with_copy(a: Any, prompts: Any, copy: Any, **asked: Any) -> LayerComparison:
    return compare_layers(a, copy, prompts, **asked)


def _frame(null: Null) -> pd.DataFrame:
    return layer_pairs(
        {
            "value": null.value,
            "null_mean": null.mean,
            "null_sd": null.sd,
            "p": null.p,
            "p_max": null.p_max,
        }
    )


def _words(
    a: Prompts, b: Prompts, per_prompt: int, seed: int
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The drawn words, one row each, in order of prompt and place; and what was left out."""
    if a.texts != b.texts:
        raise BadInput(
            "the two models read different texts (a built-in set may depend on the model); pass "
            "the same list of strings"
        )
    found = [_whole_words(p) for p in (a, b)]
    both = found[0].merge(found[1][["prompt", "word"]], on=["prompt", "word"])
    if both.empty:
        raise BadInput("no prompt has words: they are found in texts, not in token ids")
    # The first words of every prompt would compare the models at early positions only.
    mixed = both.sample(frac=1.0, random_state=np.random.default_rng(seed))
    drawn = mixed.groupby("prompt", sort=False).head(per_prompt)
    drawn = drawn[drawn.groupby("prompt")["word"].transform("size") == per_prompt]
    words = drawn.sort_values(["prompt", "word"], ignore_index=True)
    prompts = words["prompt"].nunique()
    if prompts < 2 or len(words) < LEAST:
        raise BadInput(
            f"{prompts} of {len(a)} prompts have {per_prompt} words or more; at least 2 prompts "
            f"and {LEAST} words are needed (per_prompt= draws fewer)"
        )
    left = len(a) - prompts
    notes = [f"{len(words)} words of {prompts} prompts"]
    if left:
        notes.append(f"{left} prompts have fewer than {per_prompt} words and are left out")
    if massive := max(a.massive, b.massive):
        notes.append(f"{massive} first tokens with a massive norm are left out, as BOS is")
    return words, tuple(notes)


def _whole_words(prompts: Prompts) -> pd.DataFrame:
    """One row per word that has tokens: `prompt`, `word`, `text`."""
    index = prompts.index()
    index = index[(index["word"] >= 0) & ~index["special"]]
    table = index[["prompt", "word"]].drop_duplicates(ignore_index=True)
    spans = [word_spans(text or "") for text in prompts.texts]
    places = [(i, *spans[i][w]) for i, w in table.itertuples(index=False)]
    return table.assign(text=[(prompts.texts[i] or "")[start:end] for i, start, end in places])
