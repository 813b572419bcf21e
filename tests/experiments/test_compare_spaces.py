"""Two spaces of words compared, with their nulls."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from spaces_help import (
    embedded,
    pieces_model,
    rng,
    rotation,
)

import interp
import interp.demo
from interp import BadInput
from interp.errors import UnknownName, Unsupported
from interp.experiments import WordSpace, compare_spaces
from interp.experiments.spaces import COLUMNS
from interp.measures import ranks
from interp.measures.maps import affine, relative_residual

# ---- compare_spaces --------------------------------------------------------------------------


WORDS = [f"w{i}" for i in range(120)]


@pytest.fixture(scope="module")
def spaces():
    a = rng(1).normal(size=(120, 8))
    wide = np.column_stack([a @ rotation(8), 0.05 * rng(2).normal(size=(120, 3))])
    return a, wide


def test_a_rotated_copy_is_found_by_every_method(spaces):
    a, wide = spaces
    every = ("procrustes", "affine", "cka", "cka_biased", "rsa", "mutual_knn", "svcca")
    found = compare_spaces((a, WORDS), (wide, WORDS), method=every, resamples=99)
    frame = found.frame.set_index(["method", "score"])
    assert frame.loc[("procrustes", "residual"), "value"] < 0.05
    assert (frame.filter(like="@1", axis=0)["value"] == 1).all()
    assert (frame["p"] <= 0.01).all()
    assert (frame["p_holm"] > frame["p"]).all()
    assert frame.loc["procrustes", "n"].tolist() == [24] * 10
    assert frame.loc["procrustes", "n_fit"].tolist() == [96] * 10
    assert frame.loc[("procrustes", "cosine@10"), "null_mean"] < 0.15
    assert set(found.frame.columns) == set(COLUMNS)
    assert any("8 and 11 wide, cut to the 8 leading" in note for note in found.notes)


def test_independent_spaces_are_not_distinguished_from_chance():
    p = []
    for i in range(8):
        a, b = rng(i).normal(size=(60, 5)), rng(50 + i).normal(size=(60, 5))
        found = compare_spaces((a, WORDS[:60]), (b, WORDS[:60]), resamples=19, seed=i)
        p.append(found.frame["p_holm"].min())
    assert np.mean(np.array(p) <= 0.05) <= 0.25


def test_maps_are_fitted_on_other_words_than_they_are_scored_on(spaces):
    """A map with as many parameters as words fits them all, and still knows nothing."""
    a, b = rng(1).normal(size=(60, 80)), rng(2).normal(size=(60, 80))
    fitted = affine(a, b)
    assert relative_residual(fitted, a, b) < 1e-9
    found = compare_spaces((a, WORDS[:60]), (b, WORDS[:60]), method="affine", ridge=0, resamples=39)
    residual = found.frame.set_index("score").loc["residual"]
    assert residual["value"] > 0.9
    assert residual["p"] > 0.05
    assert residual["better"] == "lower"


def test_sources_of_words_may_be_tables_and_order_does_not_matter(spaces):
    a, wide = spaces
    table = pd.DataFrame(wide, columns=[f"d{i}" for i in range(11)]).assign(word=WORDS)
    twice = pd.concat([table, table.iloc[:3]]).sample(frac=1, random_state=0)
    plain = compare_spaces((a, WORDS), (wide, WORDS), method="cka", resamples=9)
    found = compare_spaces(WordSpace(tuple(WORDS), a), twice, method="cka", resamples=9)
    assert found.frame["value"].item() == pytest.approx(plain.frame["value"].item())
    assert "3 rows of space b repeat a word and are averaged" in found.notes


def test_all_pairs_measures_draw_words_above_the_limit(spaces):
    a, wide = spaces
    found = compare_spaces((a, WORDS), (wide, WORDS), method="rsa", limit=50, resamples=9)
    assert found.frame["n"].item() == 50
    assert "rsa is of 50 words, drawn from 120" in found.notes


def test_compare_spaces_refuses_bad_input(spaces):
    a, wide = spaces
    good = (a, WORDS)
    with pytest.raises(BadInput, match="space a and space b have no words in common, at least 4"):
        compare_spaces(good, (wide, [w + "!" for w in WORDS]))
    with pytest.raises(BadInput, match="have 3 words in common"):
        compare_spaces(good, (wide, WORDS), words=WORDS[:3])
    with pytest.raises(BadInput, match="have 1 words in common.*1 were named"):
        compare_spaces(good, (wide, WORDS), words=WORDS[0])
    asked = [*WORDS[:3], WORDS[3] + "!", "xyzzy"]
    lost = f"5 were named; a lacks .{WORDS[3]}!.; did you mean .* and 1 more, b none"
    with pytest.raises(BadInput, match=lost):
        compare_spaces(good, (wide, [*WORDS[:-2], *asked[3:]]), words=asked)
    with pytest.raises(UnknownName, match="unknown method 'procrust'; did you mean 'procrustes'"):
        compare_spaces(good, good, method="procrust")
    with pytest.raises(BadInput, match="k is 500; allowed is 1 to 119, the other words"):
        compare_spaces(good, good, method="mutual_knn", k=500)
    with pytest.raises(BadInput, match="k is 500; allowed is 1 to 120, the number of words"):
        compare_spaces(good, good, method="procrustes", k=500)
    with pytest.raises(BadInput, match="space b is constant: all 120 rows"):
        compare_spaces(good, (np.ones((120, 3)), WORDS))
    bad = a.copy()
    bad[7] = np.nan
    with pytest.raises(BadInput, match="space b: 1 of 120 rows hold NaN .* row 7"):
        compare_spaces(good, (bad, WORDS))
    with pytest.raises(BadInput, match="held_out is 1.5"):
        compare_spaces(good, good, held_out=1.5)
    with pytest.raises(BadInput, match="leaves 118 to fit on|leaves 120 to fit on and 0"):
        compare_spaces(good, good, held_out=0.001)
    with pytest.raises(BadInput, match=r"space a is int; allowed: \(model, 'W_E'\)"):
        compare_spaces(7, good)
    with pytest.raises(BadInput, match="no method was asked for"):
        compare_spaces(good, good, method=())
    model = pieces_model(["a", "b", "c", "d"], 3, 1, "one")
    with pytest.raises(BadInput, match="no matrix 'W_V'"):
        compare_spaces((model, "W_V"), good)
    with pytest.raises(
        UnknownName, match="unknown way to join pieces 'means'; did you mean 'mean'"
    ):
        compare_spaces((model, "W_E"), good, pieces="means")
    model.W_E = None
    with pytest.raises(Unsupported, match="one has no matrix W_E"):
        compare_spaces((model, "W_E"), good)


@pytest.mark.parametrize("scoring", ["csls", "inverted_softmax"])
def test_hubs_are_corrected_over_all_words_or_an_exact_copy_would_not_be_found(spaces, scoring):
    """As Conneau et al. do: every target then has its own word among the sources."""
    a, _ = spaces
    copy, test = a, np.arange(24)
    over_all = ranks(copy[test], copy, test, scoring=scoring, sources=copy)
    assert (over_all == 0).all()
    over_held_out = ranks(copy[test], copy, test, scoring=scoring)
    assert (over_held_out > 0).any() == (scoring == "inverted_softmax")


def test_of_spaces_without_a_common_word_the_null_shows_what_the_correction_gives():
    """The fitted words' targets are as good as taken, in every permutation alike."""
    random = np.random.default_rng(4)
    a, b = random.normal(size=(2, 120, 90))
    found = compare_spaces((a, WORDS), (b, WORDS), method="affine", ridge=1e-6, resamples=39)
    frame = found.frame.set_index("score")
    by_chance = frame["null_mean"]
    assert by_chance["inverted_softmax@10"] > 2 * by_chance["cosine@10"]
    assert (frame["p"] > 0.02).all()


def test_a_comparison_is_drawn_and_printed(spaces):
    a, wide = spaces
    found = compare_spaces((a, WORDS), (wide, WORDS), resamples=19)
    figure = found.plot()
    assert figure.layout.yaxis.ticktext[0] == "procrustes · residual"
    assert len(figure.data[1].x) == len(found.frame)
    assert "procrustes" in repr(found)
    assert "120 words" in repr(found)
    assert (
        "19 permutations over 23 rows: p_holm cannot fall below 1; raise resamples" in found.notes
    )


# ---- the embedded models ---------------------------------------------------------------------


@embedded
def test_the_embedded_models_translate_into_each_other():
    a, b = (interp.load_model(name) for name in ("demo", "demo-llama"))
    found = compare_spaces((a, "W_E"), (b, "W_E"), method=("procrustes", "cka"), resamples=49)
    frame = found.frame.set_index(["method", "score"])
    for score in ("residual", "csls@10"):
        assert frame.loc[("procrustes", score), "p"] == 1 / 50, score
    assert (
        frame.loc[("procrustes", "csls@10"), "value"]
        > 3 * (frame.loc[("procrustes", "csls@10"), "null_mean"])
    )
    assert frame.loc[("cka", "cka"), "p"] == 1 / 50
