"""Pairs of prompts: streams by hand, patching by TransformerLens, a planted circuit, and nulls."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy
import torch
from conftest import hooks_on
from transformer_lens import patching as their

import interp
from interp.contract.analysis import meaning
from interp.errors import BadInput, UnknownName
from interp.experiments.pair_finding import Pairs
from interp.experiments.pairs import _with_patches
from interp.experiments.patching import _ratio_of_sums, by_part, patch_pairs, weak_pairs
from interp.experiments.steering import one_stack
from interp.models.hand_set import BlockWeights, HeadWeights, hand_set
from interp.prompts.pairs import read_pairs
from interp.runs.pairs import PairPasses, distances, pairs_of, parting, unrelated
from interp.stats import mean_band, paired_profile

RNG = np.random.default_rng(3)
QUIET = {"progress": False}
FEW = ("rotation", "logit_lens")


def random_pairs(n, length=7, changed=(2,), seed=0, low=5, high=90):
    """Pairs of ids that differ at some positions."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(low, high, (n, length))
    corrupted = clean.copy()
    for position in changed:
        corrupted[:, position] = (clean[:, position] - low + 1 + rng.integers(0, 50, n)) % (
            high - low
        ) + low
    return [(a.tolist(), b.tolist()) for a, b in zip(clean, corrupted, strict=True)]


def ready(model, given, **options):
    _, stack = one_stack(model, "pairs")
    anatomy = interp.inspect(model)
    raw = read_pairs(given, **{k: options.pop(k) for k in ("answer", "wrong") if k in options})
    pairs = pairs_of(model, anatomy, raw, **options)
    return stack, PairPasses.of(model, anatomy, pairs, 2048)


@pytest.fixture(scope="module")
def found(gpt2):
    """Eight pairs on a random GPT-2, with everything that is measured."""
    return interp.pairs(gpt2, random_pairs(8), FEW, answer=11, wrong=12, **QUIET)


# ---- distances ---------------------------------------------------------------------------------


def test_distances_are_those_of_two_caches(model):
    """Against `run_with_cache` of each prompt by itself, in float64."""
    pairs = random_pairs(3)
    stack, passes = ready(model, pairs)
    table = distances(model, stack, passes, unrelated(passes.pairs, 0, 0), **QUIET)
    for i, (a, b) in enumerate(pairs):
        caches = [model.run_with_cache(torch.tensor([side]))[1] for side in (a, b)]
        x, y = (
            np.stack([cache[name][0].double().numpy() for name in stack.boundaries])
            for cache in caches
        )
        rows = table[table["pair"] == i].sort_values(["state", "place"])
        n = [np.linalg.norm(s, axis=-1) for s in (x, y)]
        gap = np.linalg.norm(x - y, axis=-1)
        cos = (x * y).sum(-1) / n[0] / n[1]
        expected = {
            "distance": gap,
            "relative_distance": 2 * gap / (n[0] + n[1]),
            "cosine": cos,
            "angle": np.degrees(np.arccos(np.clip(cos, -1, 1))),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(rows[name], values.ravel(), rtol=1e-3, atol=2e-3)
        steps = np.linalg.norm(np.diff(x, axis=0) - np.diff(y, axis=0), axis=-1)
        got = rows["step_distance"].to_numpy().reshape(len(x), -1)
        assert np.isnan(got[0]).all()
        np.testing.assert_allclose(got[1:], steps, rtol=1e-3, atol=1e-5)
        assert (rows["block"] == rows["state"] - 1).all()


def test_before_the_first_difference_a_causal_model_has_one_stream(model):
    stack, passes = ready(model, [*random_pairs(3), *random_pairs(2, length=5, changed=(2, 3))])
    table = distances(model, stack, passes, unrelated(passes.pairs, 1, 0), **QUIET)
    before = table[table["place"] < 2]
    assert (before["distance"] == 0).all()
    assert (before["relative_distance"] == 0).all()
    assert (table["repeated_distance"] == 0).all()
    assert (table.loc[table["place"] == 2, "distance"] > 0).all()
    assert (table["unrelated_distance"] > 0).all()


def test_a_pair_with_itself_differs_by_exactly_nothing(gpt2):
    """Also in a batch with other pairs, and in every column of every analysis."""
    pairs = random_pairs(4)
    pairs[1] = (pairs[1][0], pairs[1][0])
    found = interp.pairs(gpt2, pairs, (*FEW, "attention", "path_length"), answer=11, **QUIET)
    own = found.distances[found.distances["pair"] == 1]
    assert (own[["distance", "relative_distance", "angle"]] == 0).all(axis=None)
    for name, table in found.differences.items():
        columns = [c for c in table if f"{c}_clean" in table]
        rows = table.loc[table["pair"] == 1, columns]
        assert (rows.fillna(0) == 0).all(axis=None), name
        assert rows.notna().any(axis=None)
    assert found.patches.loc[found.patches["pair"] == 1, "recovery"].isna().all()
    assert (found.patches.loc[found.patches["pair"] == 1, "patched"].diff().fillna(0) == 0).all()
    assert any("1 of 4 pairs has the same tokens on both sides" in note for note in found.notes)
    assert any("in 1 of 4 pairs the log-probability is the same" in n for n in found.notes)
    assert found.parting.loc[found.parting["pair"] == 1, "parts"].isna().all()


def test_nothing_but_pairs_with_themselves_gives_zeros(gpt2):
    pairs = [(a, a) for a, _ in random_pairs(4)]
    found = interp.pairs(gpt2, pairs, "rotation", **QUIET)
    assert (found.frame[["angle", "distance", "angle_low"]] == 0).all(axis=None)
    assert (found.tests["difference"].fillna(0) == 0).all()
    assert found.onsets["layer"].isna().all()
    assert "the two streams are the same at every state" in found.sentence


def test_unrelated_pairs_share_no_side_and_have_the_length():
    class Fake:
        def __init__(self, pairs):
            sides = list(zip(*pairs, strict=True))
            self.clean, self.corrupted = (interp.read_prompts(list(side)) for side in sides)

        def __len__(self):
            return len(self.clean)

    pairs = [
        ([1, 2], [1, 3]),
        ([4, 5], [4, 6]),
        ([1, 3], [1, 2]),
        ([7, 8, 9], [7, 8, 1]),
        ([4], [5]),
    ]
    drawn = unrelated(Fake(pairs), 3, seed=0)
    assert set(drawn[0]) == {1, -1}
    assert set(drawn[1]) == {0, 2, -1}
    assert set(drawn[3]) == {-1}
    assert len(set(drawn[4])) == 3
    assert (unrelated(Fake(pairs), 3, seed=0) == drawn).all()


def test_unrelated_distances_are_those_of_two_single_prompts(gpt2):
    pairs = random_pairs(3)
    stack, passes = ready(gpt2, pairs)
    partners = unrelated(passes.pairs, 1, 4)
    table = distances(gpt2, stack, passes, partners, **QUIET)
    for i, (a, _) in enumerate(pairs):
        other = pairs[partners[i, 0]][1]
        caches = [gpt2.run_with_cache(torch.tensor([side]))[1] for side in (a, other)]
        x, y = (torch.stack([c[n][0] for n in stack.boundaries]) for c in caches)
        rows = table[table["pair"] == i].sort_values(["state", "place"])
        expected = (x - y).norm(dim=-1).flatten().numpy()
        np.testing.assert_allclose(rows["unrelated_distance"], expected, rtol=1e-4)


def test_streams_part_and_meet_where_it_was_planted():
    relative = {0: [0.0, 0.5, 0.8, 0.05, 0.0], 1: [0.0] * 5, 2: [0.2, 0.0, 0.3, 0.4, 0.4]}
    rows = [
        {"pair": 0, "place": place, "state": s, "relative_distance": x}
        for place, values in relative.items()
        for s, x in enumerate(values)
    ]
    found = parting(pd.DataFrame(rows).sample(frac=1, random_state=0), 0.1)
    assert found["place"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(found["parts"], [1, np.nan, 0])
    np.testing.assert_array_equal(found["peak_state"], [2, np.nan, 3])
    np.testing.assert_array_equal(found["meets"], [3, np.nan, np.nan])
    np.testing.assert_array_equal(found["last"], [0.0, 0.0, 0.4])


# ---- differences and tests -----------------------------------------------------------------------


def test_differences_are_those_of_two_runs(gpt2, found):
    pairs = random_pairs(8)
    for name in FEW:
        a, b = (
            interp.run(gpt2, [p[side] for p in pairs], name, targets=11, **QUIET)[name].frame
            for side in (0, 1)
        )
        table = found.differences[name]
        value = {"rotation": "angle", "logit_lens": "log_prob"}[name]
        keys = ["prompt", "position", "layer"]
        merged = a.merge(b, on=keys, suffixes=("_a", "_b")).sort_values(keys)
        expected = merged[f"{value}_b"] - merged[f"{value}_a"]
        np.testing.assert_allclose(table[value], expected, rtol=1e-4, atol=1e-5)
        assert (table["state"] - table["layer"] == (name == "rotation")).all()


def test_the_pair_is_the_unit_of_every_test(found):
    table, tokens = found.differences["rotation"], found.tokens
    rows = table.merge(tokens[tokens["part"] != "before"], on=["pair", "place"])
    means = rows.groupby(["layer", "pair"])["angle"].mean()
    tests = found.tests.query("analysis == 'rotation' and column == 'angle'")
    for row in tests.itertuples():
        expected = scipy.stats.ttest_1samp(means[row.layer], 0)
        assert row.t == pytest.approx(expected.statistic)
        assert row.difference == pytest.approx(means[row.layer].mean())
        assert row.pairs == 8
    assert (tests["mean_corrupted"] - tests["mean_clean"]).to_numpy() == pytest.approx(
        tests["difference"].to_numpy()
    )


def test_an_edit_is_detected_from_the_block_on_that_reads_it():
    """Planted: block 1 alone adds something to the corrupted tokens; the tables part there."""
    eye = np.eye(8)
    embed = np.vstack([eye[:4], eye[:2] + 0.0, eye[:2]])
    embed[4, 6] = embed[5, 7] = 1e-3  # a mark that nothing but block 1 reads
    model = hand_set(
        "planted mark",
        embed,
        [
            BlockWeights(),
            BlockWeights(mlp=_amplifier(8, 6, 4000.0)),
            BlockWeights(bias=0.1 * eye[3]),
        ],
    )
    pairs = [([2, 0, 3], [2, 4, 3]), ([3, 0, 2], [3, 4, 2]), ([2, 0, 2], [2, 4, 2]),
             ([3, 0, 3], [3, 4, 3]), ([1, 0, 2], [1, 4, 2]), ([1, 0, 3], [1, 4, 3])]  # fmt: skip
    found = interp.pairs(model, pairs, "rotation", patch=False, threshold=0.01, **QUIET)
    changed = found.parting.merge(found.tokens)
    changed = changed[changed["part"] == "changed"]
    assert (changed["parts"] == 2).all()
    onset = found.onsets.set_index("column").loc["angle"]
    assert (onset["layer"], onset["state"]) == (1, 2)


def _amplifier(width, dim, gain):
    from interp.models.hand_set import linear

    matrix = np.zeros((width, width))
    matrix[dim, dim] = gain
    return linear(matrix)


def test_swapped_sides_are_called_different_as_often_as_allowed(gpt2):
    """Two random sides are exchangeable; every draw swaps those of some pairs."""
    pairs = random_pairs(12, changed=range(7))
    found = interp.pairs(gpt2, pairs, "rotation", patch=False, read="all", **QUIET)
    table = found.differences["rotation"]
    means = table.groupby(["pair", "layer"])["angle"].mean()
    x = means.to_numpy().reshape(12, -1)
    rng = np.random.default_rng(0)
    runs, alarms = 300, 0
    for seed in range(runs):
        swapped = x * rng.choice([-1.0, 1.0], (12, 1))
        p = paired_profile(swapped, 0 * x, resamples=199, seed=seed)["p_max"]
        alarms += bool((p < 0.05).any())
    low, high = scipy.stats.binom.interval(0.999, runs, 0.05)
    assert low <= alarms <= high


# ---- patching ----------------------------------------------------------------------------------


def logit_gap(logits):
    return logits[:, -1, 11] - logits[:, -1, 12]


def test_patches_are_those_of_transformer_lens(gpt2):
    """Its own function at `resid_pre`, for all blocks and positions, one pair at a time."""
    pairs = random_pairs(3)
    table = interp.pairs(gpt2, pairs, [], answer=11, wrong=12, **QUIET).patches
    for i, (a, b) in enumerate(pairs):
        _, cache = gpt2.run_with_cache(torch.tensor([a]))
        with torch.no_grad():
            theirs = their.generic_activation_patch(
                gpt2,
                torch.tensor([b]),
                cache,
                lambda logits: logit_gap(logits)[0],
                their.layer_pos_patch_setter,
                "resid_pre",
                ["layer", "pos"],
            )
        rows = table[(table["pair"] == i) & (table["state"] < len(theirs))]
        ours = rows.sort_values(["state", "place"])["patched"].to_numpy().reshape(theirs.shape)
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)
        assert np.ptp(ours) > 1e-3


@pytest.mark.parametrize("metric", ["kl", "log_prob", "logit_difference"])
def test_every_metric_is_that_of_a_hook_by_hand(model, metric):
    pairs = random_pairs(2)
    answers = {
        "kl": {},
        "log_prob": {"answer": 11},
        "logit_difference": {"answer": 11, "wrong": 12},
    }
    found = interp.pairs(model, pairs, [], **answers[metric], **QUIET)
    assert found.facts["metric"] == metric
    _, stack = one_stack(model, "pairs")
    a, b = (torch.tensor([side]) for side in pairs[1])
    logits, cache = model.run_with_cache(a)
    target = logits[0, -1].detach().double().log_softmax(-1)

    def read(out):
        log_p = out[0, -1].detach().double().log_softmax(-1)
        if metric == "kl":
            return float((target.exp() * (target - log_p)).sum())
        return float(log_p[11] if metric == "log_prob" else log_p[11] - log_p[12])

    scale = read(logits), read(model(b))
    for state, place in ((0, 2), (1, 4), (len(stack.boundaries) - 1, 6)):

        def hook(value, hook, place=place, state=state):
            value = value.clone()
            value[:, place] = cache[stack.boundaries[state]][:, place]
            return value

        out = read(model.run_with_hooks(b, fwd_hooks=[(stack.boundaries[state], hook)]))
        row = found.patches.query(f"pair == 1 and place == {place} and state == {state}").iloc[0]
        assert row["patched"] == pytest.approx(out, rel=1e-3, abs=1e-5)
        expected = (out - scale[1]) / (scale[0] - scale[1])
        assert row["recovery"] == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_the_last_state_of_the_last_token_recovers_exactly_everything(model):
    table = interp.pairs(model, random_pairs(4), [], **QUIET).patches
    last = table[(table["state"] == table["state"].max()) & (table["place"] == 6)]
    assert (last["recovery"] == 1).all()
    others = table[(table["state"] == table["state"].max()) & (table["place"] < 6)]
    assert (others["recovery"] == 0).all()
    # Before any block a later token has the same state on both sides: that patch is run, too.
    assert (table.loc[table["place"] < 2, "recovery"] == 0).all()
    later = table[(table["state"] == 0) & (table["place"] > 2)]
    assert (later["patched"] == later["corrupted"]).all()


def test_also_in_several_passes_of_few_rows(gpt2):
    """The budget allows two rows of seven tokens; each is compared with its own row."""
    stack, passes = ready(gpt2, random_pairs(3), answer=11)
    none = unrelated(passes.pairs, 1, 0)
    whole, parts = (
        patch_pairs(gpt2, stack, passes.pairs, none, states=[0, 1, 2], max_tokens=n, **QUIET)
        for n in (2048, 14)
    )
    keys = ["pair", "state", "place"]
    whole, parts = whole.sort_values(keys), parts.sort_values(keys)
    np.testing.assert_allclose(whole["patched"], parts["patched"], rtol=1e-5)
    np.testing.assert_allclose(whole["unrelated"], parts["unrelated"], rtol=1e-5)
    last = parts[(parts["state"] == 2) & (parts["place"] == 6)]
    assert stack.n_blocks != 2 or (last["recovery"] == 1).all()
    assert (parts.loc[parts["place"] < 2, "recovery"] == 0).all()


def test_corrupted_into_itself_changes_exactly_nothing(model):
    """The clean side is the corrupted one, with answers that others would be compared by."""
    pairs = [(b, b) for _, b in random_pairs(2)]
    table = interp.pairs(model, pairs, [], answer=11, wrong=12, **QUIET).patches
    assert (table["patched"] == table["corrupted"]).all()
    assert (table["clean"] == table["corrupted"]).all()


def circuit():
    """Block 1 alone moves the subject (token 0 or 1) from where it stands to the last token (4)."""
    width = 9
    eye = np.eye(width)
    subject = np.zeros((width, 2))
    subject[0, 0] = subject[1, 1] = 1.0
    none = np.zeros((width, 1))
    head = HeadWeights(
        query=np.hstack([20 * eye[:, [4]], none]),
        key=np.hstack([subject.sum(1, keepdims=True), none]),
        value=subject,
        out=3.0 * eye[[5, 6]],
    )
    idle = HeadWeights(query=np.zeros((width, 2)), key=np.zeros((width, 2)))
    return hand_set(
        "moved subject",
        eye[:7],
        [BlockWeights(heads=[idle]), BlockWeights(heads=[head]), BlockWeights(heads=[idle])],
        unembed=np.vstack([np.zeros((5, 7)), np.eye(7)[5:], np.zeros((2, 7))]),
    )


CIRCUIT = [([2, 0, 3, 4], [2, 1, 3, 4]), ([3, 0, 2, 4], [3, 1, 2, 4]), ([2, 0, 2, 4], [2, 1, 2, 4])]


def test_a_planted_circuit_is_found_at_its_block_and_positions():
    found = interp.pairs(circuit(), CIRCUIT, [], answer=5, wrong=6, **QUIET)
    cells = found.patches.groupby(["state", "place"])["recovery"].mean().unstack("place")
    expected = np.zeros((4, 4))
    expected[:2, 1] = 1.0  # before block 1 it stands at the subject,
    expected[2:, 3] = 1.0  # after it at the last token
    np.testing.assert_allclose(cells.to_numpy(), expected, atol=1e-6)
    apart = found.distances.groupby(["state", "place"])["relative_distance"].mean().unstack("place")
    # At the subject the streams stay apart to the end, although nothing reads them after block 1.
    assert (apart[1] > 1).all()
    assert (apart[3].to_numpy() > 0.1).tolist() == [False, False, True, True]
    assert (apart[0] == 0).all()
    # Token 2 looks at all before it alike; it parts as well, and nothing reads it.
    assert (apart[2].to_numpy() > 0).tolist() == [False, False, True, True]
    part = found.patched.set_index(["part", "state"])["recovery"]
    assert part["changed", 1] == pytest.approx(1.0, abs=1e-6)
    assert part["last", 2] == pytest.approx(1.0, abs=1e-6)
    assert part["after", 1] == 0


def test_patches_from_unrelated_pairs_bring_no_answer():
    """Half of the pairs go the other way, so that a foreign subject is wrong as often as right."""
    pairs = [*CIRCUIT, *[(b, a) for a, b in CIRCUIT]]
    answer = [5] * 3 + [6] * 3
    wrong = [6] * 3 + [5] * 3
    found = interp.pairs(circuit(), pairs, [], answer=answer, wrong=wrong, seed=1, **QUIET)
    own = found.patches.query("state == 1 and place == 1")
    assert own["recovery"].to_numpy() == pytest.approx(np.ones(6), abs=1e-6)
    assert set(own["unrelated_recovery"].round(3)) <= {0.0, 1.0}
    assert own["unrelated_recovery"].mean() < 1


def test_shares_over_pairs_weigh_them_by_their_effect():
    gain, scale = RNG.normal(size=(7, 3)), RNG.uniform(1, 3, size=(7, 3))
    whole, low, high = _ratio_of_sums(gain, scale, 0.9)
    np.testing.assert_allclose(whole, gain.sum(0) / scale.sum(0))
    keep = ~np.eye(7, dtype=bool)
    left = np.stack([gain[k].sum(0) / scale[k].sum(0) for k in keep])
    se = np.sqrt(6 / 7 * ((left - left.mean(0)) ** 2).sum(0))
    half = scipy.stats.t.ppf(0.95, 6) * se
    np.testing.assert_allclose([low, high], [whole - half, whole + half])
    gain[2, 1] = np.nan
    keep = np.delete(np.arange(7), 2)
    expected = gain[keep, 1].sum() / scale[keep, 1].sum()
    assert _ratio_of_sums(gain, scale, 0.9)[0][1] == pytest.approx(expected)


def test_agreement_is_the_rank_correlation_of_each_pair(found):
    cells = found.patches.merge(found.distances, on=["pair", "place", "state"])
    for row in found.agreement.itertuples():
        own = cells[
            (cells["pair"] == row.pair) & (cells["relative_distance"] > found.facts["threshold"])
        ]
        expected = scipy.stats.spearmanr(own["relative_distance"], own["recovery"]).statistic
        assert row.spearman == pytest.approx(expected)
        assert row.cells == len(own)
    whole = found.correlation().iloc[0]
    assert whole["difference"] == pytest.approx(found.agreement["spearman"].mean())
    assert whole["pairs"] == 8


# ---- other lengths -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_sides_of_other_length_are_aligned_at_their_ends(request, name):
    model = request.getfixturevalue(name)
    a, b = [7, 8, 9, 10, 11], [7, 8, 20, 21, 22, 10, 11]
    rest = random_pairs(2)
    with pytest.raises(BadInput, match=r"pair 0: the clean prompt has 5 tokens and the corrupted"):
        interp.pairs(model, [(a, b), *rest], "rotation", **QUIET)
    found = interp.pairs(model, [(a, b), *rest], "rotation", align="ends", **QUIET)
    own = found.tokens[found.tokens["pair"] == 0]
    assert own["clean_position"].tolist() == [0, 1, 3, 4]
    assert own["corrupted_position"].tolist() == [0, 1, 5, 6]
    assert own["part"].tolist() == ["before", "before", "after", "last"]
    table = found.distances[found.distances["pair"] == 0]
    assert (table.loc[table["place"] < 2, "distance"] == 0).all()  # padded to one shape
    last = found.patches.query("pair == 0 and place == 3")
    assert last["recovery"].iloc[-1] == pytest.approx(1.0, abs=1e-3)
    assert any("1 of 3 pairs has sides of different length; 3 tokens" in n for n in found.notes)
    title = found.drawings["Distance and patched effect"].title
    assert "Distance and patched effect, only pair 0" in title


def test_words_of_a_text_are_spans():
    model = interp.load_model("demo")
    text, first, other = "Mary met Tom.", "Mary", "The old farmer met Tom."
    spans = [(first, "The old farmer")]
    found = interp.pairs(model, [(text, other)], [], spans=spans, patch=False, **QUIET)
    assert found.tokens["corrupted_position"].iloc[-1] > found.tokens["clean_position"].iloc[-1]
    outside = [((0, len(first)), (0, len(other) + 5))]
    with pytest.raises(BadInput, match=r"lies outside of the corrupted prompt, which has \d+ char"):
        interp.pairs(model, [(text, other)], [], spans=outside, patch=False, **QUIET)


# ---- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"read": "final"}, "read='final'; allowed: all, before, changed, after, last"),
        ({"controls": -1}, "controls=-1: a number of unrelated pairs, 0 or more"),
        ({"confidence": 1.0}, "confidence is 1.0; it must lie between 0 and 1"),
        ({"threshold": -0.1}, "threshold=-0.1: a relative distance, 0 or more"),
        ({"answer": 11, "wrong": 11}, "answer and wrong are the same token (11)"),
        ({"patch_states": 9}, "layer 9 is out of range: this model has states 0 …"),
        ({"labels": {"place": [0, 1]}}, "label 'place' is a column that the tables of pairs have"),
        ({"labels": {"angle": [0, 1]}}, "label 'angle' has the name of a column"),
        ({"read": "before", "special": False}, "no pair has an ordinary token to read (before)"),
    ],
)
def test_options_that_cannot_be_are_refused(gpt2, options, said):
    pairs = random_pairs(2, changed=(0,)) if options.get("read") == "before" else random_pairs(2)
    with pytest.raises(BadInput, match=re.escape(said)):
        interp.pairs(gpt2, pairs, "rotation", **options, **QUIET)
    assert hooks_on(gpt2) == []


def test_an_answer_of_several_tokens_is_refused():
    model = interp.load_model("demo")
    text = "Mary met Tom."
    with pytest.raises(BadInput, match=r"answer\[0\] ' her her' is \d tokens of this model"):
        interp.pairs(model, [(text, text)], [], answer=" her her", **QUIET)


def test_an_unknown_analysis_is_refused_before_the_first_pass(gpt2):
    with pytest.raises(UnknownName, match="did you mean 'rotation'"):
        interp.pairs(gpt2, random_pairs(2), "rotatoin", **QUIET)


def test_analyses_without_rows_per_token_are_named_in_a_note(gpt2):
    found = interp.pairs(gpt2, random_pairs(3), ("random_pairs", "rotation"), patch=False, **QUIET)
    assert list(found.differences) == ["rotation"]
    assert any(note.startswith("random_pairs has no row per token") for note in found.notes)


def patched(recoveries):
    """Recovery by state of the tokens changed and last, without intervals."""
    rows = [
        {"part": part, "state": state, "recovery": value, "unrelated_recovery": other}
        for part, values in recoveries.items()
        for state, (value, other) in enumerate(values)
    ]
    return pd.DataFrame(rows).assign(recovery_low=np.nan, recovery_high=np.nan)


@pytest.mark.parametrize(
    ("recoveries", "told"),
    [
        (
            {"changed": [(0.48, 0.2), (0.3, 0.1)], "last": [(0.1, 0.0), (0.6, 0.2)]},
            "patching a changed token never brings back half of the logit difference (most at "
            "state 0: 0.48; from an unrelated pair 0.2); patching the last token brings back "
            "half of the logit difference from state 1 on",
        ),
        (
            {"changed": [(1.0, np.nan), (0.7, np.nan), (0.2, np.nan)]},
            "patching a changed token brings back half of the logit difference up to state 1 "
            "(most at state 0: 1)",
        ),
        (
            {"last": [(0.1, 0.0), (0.2, 0.2)]},
            "patching the last token never brings back half of the logit difference",
        ),
    ],
)
def test_what_patching_brings_back_is_told_in_words(found, recoveries, told):
    facts = {**found.facts, "metric": "logit_difference"}
    given = replace(found, patched=patched(recoveries), facts=facts)
    told = f"{told[0].upper()}{told[1:]}."
    assert told in given.sentence


def test_one_pair_alone_has_no_tests_and_no_unrelated_pair(gpt2):
    found = interp.pairs(gpt2, random_pairs(1), "rotation", **QUIET)
    assert found.tests["p"].isna().all()
    assert found.frame["unrelated_angle"].isna().all()
    assert any("1 of 1 pairs found no unrelated pair" in note for note in found.notes)
    assert "1 pair, read at changed, after, last tokens" in found.sentence
    assert "Too few pairs for a test: no p can be below 1" in found.sentence
    found.drawn_as_text()


# ---- media -------------------------------------------------------------------------------------


def test_figures_hold_the_numbers_of_the_tables(found):
    drawn = found.drawings
    assert list(drawn)[:3] == ["Distance", "Distance and patched effect", "Recovered"]
    cells = drawn["Distance and patched effect"].table.set_index(["panel", "row", "column"])[
        "value"
    ]
    rows = found.patches.query("state == 1 and place == 2")
    gain = (rows["patched"] - rows["corrupted"]).sum()
    expected = gain / (rows["clean"] - rows["corrupted"]).sum()
    assert cells["recovered", 1, 2] == pytest.approx(expected)
    mean = found.distances.query("state == 1 and place == 2")["relative_distance"].mean()
    assert cells["relative distance", 1, 2] == pytest.approx(mean)
    for name in drawn:
        assert found.plot(name).data
    assert found.plot_pair(3).data
    with pytest.raises(BadInput, match="there is no pair 8: they are 0 … 7"):
        found.plot_pair(8)
    assert "family-wise" in found.sentence or "No column" in found.sentence


def test_saved_pairs_come_back_whole(tmp_path, found, hasty):
    found.save(tmp_path / "pairs")
    back = Pairs.load(tmp_path / "pairs")
    assert back.sentence == found.sentence
    assert back.notes == found.notes
    assert dict(back.facts) == dict(found.facts)
    for name, table in found.tables.items():
        pd.testing.assert_frame_equal(back.tables[name], table, check_dtype=False)
    assert list(back.clean) == list(FEW)
    pd.testing.assert_frame_equal(
        back.corrupted["rotation"].frame, found.corrupted["rotation"].frame
    )
    page = (tmp_path / "pairs" / "report.html").read_text(encoding="utf-8")
    assert "Distance and patched effect" in page
    assert found.clean.report(tmp_path / "run.html", findings=[found]).is_file()


def test_only_pairs_are_loaded_as_pairs(tmp_path):
    with pytest.raises(BadInput, match="holds no finding"):
        Pairs.load(tmp_path)
    (tmp_path / "experiment.json").write_text('{"experiment": "steer"}', encoding="utf-8")
    with pytest.raises(BadInput, match="holds the experiment 'steer', not 'pairs'"):
        Pairs.load(tmp_path)


def test_the_untrained_copy_is_compared_beside(tmp_path, gpt2, hasty):
    found = interp.pairs(gpt2, random_pairs(3), "rotation", control="random-init", **QUIET)
    assert isinstance(found.control, Pairs)
    assert found.control.frame["angle"].notna().all()
    assert not np.allclose(found.control.frame["angle"], found.frame["angle"])
    found.save(tmp_path / "with")
    back = Pairs.load(tmp_path / "with")
    assert back.control.sentence == found.control.sentence


def test_labels_reach_every_table(gpt2):
    pairs = [{"clean": a, "corrupted": b, "kind": f"k{i % 2}"} for i, (a, b) in
             enumerate(random_pairs(4))]  # fmt: skip
    found = interp.pairs(gpt2, pairs, "rotation", patch=False, **QUIET)
    assert found.tokens.groupby("pair")["kind"].first().tolist() == ["k0", "k1"] * 2
    frame = found.clean["rotation"].frame
    assert set(frame["kind"]) == {"k0", "k1"}
    assert set(frame["part"]) == {"before", "changed", "after", "last"}


def test_the_command_compares_a_file(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from interp.cli.app import app

    names = ("Mary John", "Anna Tom", "Lucy Paul", "Emma Peter", "Sara Mark", "Nora David")
    rows = [
        {
            "clean": f"The dog saw {a} and {b}.",
            "corrupted": f"The dog saw {b} and {a}.",
            "kind": "swap",
        }
        for a, b in map(str.split, names)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = ["run", "--pairs", str(path), "-a", "rotation", "--quiet", "--json"]
    done = CliRunner().invoke(app, [*given, "--read", "changed,last", "--seed", "3"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["facts"]["read"] == "changed, last"
    assert told["about"]["asked"]["seed"] == 3
    assert {"pairs", "tests", "patched", "distances"} <= set(told["tables"])
    assert Pairs.load(tmp_path / "interp-run").tokens["pair"].nunique() == 6


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--align", "ends"], "--align: only with --pairs"),
        (["--no-patch"], "--no-patch: only with --pairs"),
        (["--pairs", "x.csv", "--prompts", "her"], "--prompts: not with --pairs"),
        (["--pairs", "x.csv", "--generate", "4"], "--generate: not with --pairs"),
        (["--pairs", "none.csv"], "no such file: 'none.csv'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(tmp_path, monkeypatch, given, said):
    from typer.testing import CliRunner

    from interp.cli.app import app

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", *given, "--quiet"])
    assert isinstance(done.exception, BadInput)
    assert said in str(done.exception)


def test_pairs_that_share_a_prompt_or_all_have_one_answer_are_named(gpt2):
    pairs = random_pairs(3)
    mirrored = [*pairs, pairs[1][::-1]]
    options = {"answer": 11, **QUIET}
    notes = interp.pairs(gpt2, mirrored, [], **options).notes
    told = "1 of 4 pairs share a prompt with an earlier one (pair 3 with pair 1)"
    assert any(told in note for note in notes)
    assert any("All pairs have the same answer" in note for note in notes)
    pairs = random_pairs(4)
    notes = interp.pairs(
        gpt2, pairs, [], **(options | {"answer": [11, 12, 11, 12], "patch": False})
    ).notes
    assert not notes


@pytest.mark.parametrize("name", ["bert", "bloom", "mamba", "gemma2"])
def test_what_must_be_exact_is_exact_in_every_kind_of_model(name):
    """Attention in both directions, ALiBi, recurrence, post-norms; two lengths in one batch."""
    from zoo import ZOO
    from zoo.boot import boot

    torch.manual_seed(0)
    model = boot(ZOO[name])
    pairs = [*random_pairs(3, high=60), *random_pairs(2, length=5, high=60)]
    found = interp.pairs(model, pairs, [], answer=11, wrong=12, **QUIET)
    assert (found.distances["repeated_distance"] == 0).all()
    before = found.distances.loc[found.distances["place"] < 2, "distance"]
    assert (before > 0).any() if name == "bert" else (before == 0).all()
    assert found.facts["read"] == ("all aligned" if name == "bert" else "changed, after, last")
    table = found.patches
    ends = table.groupby("pair")["place"].transform("max")
    top = table[(table["state"] == table["state"].max()) & (table["place"] == ends)]
    assert (top["recovery"] == 1).all()


def test_half_precision_is_as_exact():
    model = interp.load_model("demo", dtype="bfloat16")
    found = interp.pairs(model, random_pairs(3), [], answer=11, wrong=12, **QUIET)
    table = found.patches
    top = table[(table["state"] == table["state"].max()) & (table["place"] == 6)]
    assert (top["recovery"] == 1).all()
    assert (found.distances.loc[found.distances["place"] < 2, "distance"] == 0).all()


def test_models_with_several_stacks_are_refused():
    from zoo import ZOO
    from zoo.boot import boot

    with pytest.raises(interp.errors.Unsupported, match="pairs runs models with one stack"):
        interp.pairs(boot(ZOO["t5"]), random_pairs(2, high=60), [], **QUIET)


def test_an_analysis_with_a_basis_of_its_own_is_measured_on_both_sides_together(gpt2):
    """The axes of two runs are two bases: coordinates of one run cannot be subtracted."""
    pairs = random_pairs(5)
    found = interp.pairs(gpt2, pairs, ("trajectory", "norm"), patch=False, **QUIET)
    every = [side for pair in zip(*pairs, strict=True) for side in pair]
    frame = interp.run(gpt2, every, "trajectory", **QUIET)["trajectory"].frame
    frame = frame.sort_values(["prompt", "position", "layer"])
    clean, corrupted = (frame[frame["prompt"] // 5 == side] for side in (0, 1))
    expected = corrupted["pc1"].to_numpy() - clean["pc1"].to_numpy()
    table = found.differences["trajectory"].sort_values(["pair", "place", "layer"])
    np.testing.assert_allclose(table["pc1"], expected, atol=1e-4)
    before = table.merge(found.tokens)
    assert np.abs(before.loc[before["part"] == "before", "pc1"]).max() < 1e-4
    assert set(found.corrupted["trajectory"].frame["prompt"]) == set(range(5))
    assert "Measured on both sides of the pairs in one run." in found.clean["trajectory"].notes
    assert list(found.clean) == ["trajectory", "norm"]
    apart = interp.run(gpt2, [p[1] for p in pairs], "norm", **QUIET)["norm"].frame
    np.testing.assert_allclose(found.corrupted["norm"].frame["norm"], apart["norm"], rtol=1e-6)


# ---- few pairs, weak pairs, looks ---------------------------------------------------------------


def test_intervals_stay_in_their_range_and_few_pairs_have_none(gpt2):
    found = interp.pairs(gpt2, random_pairs(4), [], answer=11, wrong=12, **QUIET)
    frame = found.frame
    for name, (low, high) in {"angle": (0, 180), "cosine": (-1, 1), "step_angle": (0, 180),
                              "unrelated_relative_distance": (0, 2)}.items():  # fmt: skip
        known = frame[frame[f"{name}_low"].notna()]
        assert len(known)
        assert (known[f"{name}_low"] >= low).all()
        assert (known[f"{name}_high"] <= high).all()
    spread = pd.DataFrame({"pair": range(4), "spearman": [0.99, -0.9, 0.98, 0.1]})
    row = replace(found, agreement=spread).correlation().iloc[0]
    student = mean_band(spread[["spearman"]].to_numpy())
    assert student[1].item() < -1 < row["low"] < row["difference"] < row["high"] < 1
    few = interp.pairs(gpt2, random_pairs(3), "rotation", answer=11, wrong=12, **QUIET)
    ends = [c for c in few.frame if c.endswith(("_low", "_high"))]
    assert few.frame[ends].isna().all(axis=None)
    assert few.tests[["low", "high"]].isna().all(axis=None)
    assert few.patched[["recovery_low", "recovery_high"]].isna().all(axis=None)
    assert "3 pairs: no interval can be given for fewer than 4" in few.notes[0]


def test_a_pair_with_next_to_nothing_to_recover_is_named_and_left_out(found):
    patches = found.patches.copy()
    of = patches["pair"] == 5
    # The two sides differ by next to nothing, and a patch brings more than that.
    patches.loc[of, "clean"] = patches.loc[of, "corrupted"] + 0.002
    patches.loc[of, "recovery"] = (patches["patched"] - patches["corrupted"])[of] / 0.002
    assert weak_pairs(patches) == [5]
    assert patches.loc[of, "recovery"].abs().max() > 20
    rows = by_part(patches, found.tokens, resamples=100)
    merged = patches.merge(found.tokens[["pair", "place", "part"]])
    others = merged[(merged["pair"] != 5) & merged["recovery"].notna()]
    of_pairs = others.groupby(["part", "state", "pair"])["recovery"].mean()
    expected = of_pairs.groupby(["part", "state"]).mean()
    seen = rows.set_index(["part", "state"])["mean_recovery"]
    np.testing.assert_allclose(seen, expected.reindex(seen.index), atol=1e-12)
    told = _with_patches(found, patches, 1e-6, {"resamples": 100, "confidence": 0.95}).notes
    assert any("in 1 of 8 pairs (5) there is next to nothing to recover" in note for note in told)


def test_a_map_of_one_pair_says_so(gpt2):
    ragged = [*random_pairs(3), *random_pairs(2, length=9, seed=4)]
    found = interp.pairs(gpt2, ragged, [], answer=11, wrong=12, **QUIET)
    drawing = found.drawings["Distance and patched effect"]
    assert "only pair 0 (of 5)" in drawing.title
    assert "Only pair 0 is shown; plot_pair(n) shows the others." in drawing.caption
    assert "Pairs of different lengths have no mean by token." in drawing.caption
    heading = "Distance and patched effect, only pair 0 (of 5)"
    assert heading in found.all_drawings()
    assert f"<h3>{heading}</h3>" in found.page()


def test_a_map_of_one_of_pairs_of_equal_length_has_another_reason(found):
    assert len(set(found.tokens.groupby("pair").size())) == 1
    told = found.plot_pair(2, width=2000).layout.title.subtitle.text.replace("<br>", " ")
    assert "Only pair 2 is shown; plot_pair(n) shows the others." in told
    assert "different lengths" not in told


def test_every_plot_takes_a_look_and_its_caption_fits(found):
    figure = found.plot_pair(0, width=420, title="Mine", height=700)
    assert (figure.layout.width, figure.layout.height) == (420, 700)
    assert figure.layout.title.text == "Mine"
    for shown, width in ((figure, 420), (found.plot_pair(0), 700)):
        lines = shown.layout.title.subtitle.text.split("<br>")
        assert max(map(len, lines)) * 7 <= width
        assert shown.layout.margin.t >= 46 + 17 * len(lines)
    with pytest.raises(UnknownName, match="width"):
        found.plot_pair(0, widht=420)


def test_controls_of_one_grey_differ_by_their_line(gpt2):
    pairs = random_pairs(4)
    found = interp.pairs(gpt2, pairs, [], answer=[11, 12] * 2, wrong=[12, 11] * 2, **QUIET)
    lines = {t.name: t.line for t in found.plot("Recovered").data if t.name}
    grey = [line for name, line in lines.items() if name.endswith(", unrelated")]
    assert len(grey) == 2
    assert len({line.color for line in grey}) == 1
    assert len({line.dash for line in grey}) == 2


def test_every_column_of_every_table_is_explained(found):
    for name, table in found.tables.items():
        own = set() if not name.startswith("differences_") else set(
            found.clean[name.removeprefix("differences_")].columns)  # fmt: skip
        missing = [c for c in table if c not in own and meaning(found.columns, c) is None]
        assert not missing, (name, missing)


def test_the_finding_is_told_in_short_sentences(found):
    sentences = re.split(r"(?<=[a-z\])°])\. (?=[A-Z])", found.sentence)
    assert len(sentences) >= 3
    assert max(len(s.split()) for s in sentences) < 50
