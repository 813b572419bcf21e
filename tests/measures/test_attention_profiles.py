"""Attention by offset, rollout and head types, against explicit loops and simulation."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

import interp
from analyses import position_profile
from analyses.attention import Attention
from analyses.position_profile import PositionProfile
from interp import BadInput, Batch, Sum
from interp.contract.leaves import merge_states
from interp.measures import offset_profile, offset_sums, share_interval

TEXTS = ["the man saw her in a red house", "a queen told her", "the dog met him on the old road ."]
rng = np.random.default_rng(3)


def random_patterns(n: int, heads: int = 2, concentration: float = 1.0) -> torch.Tensor:
    """Causal rows that sum to 1 and care for no offset: `[head, n, n]`."""
    out = np.zeros((heads, n, n))
    for h in range(heads):
        for i in range(n):
            out[h, i, : i + 1] = rng.dirichlet(np.full(i + 1, concentration))
    return torch.from_numpy(out)


def causal(n: int) -> torch.Tensor:
    return torch.ones(n, n).tril().bool()


def pairs_by_loops(patterns, allowed, max_offset):
    """(offset, value) of every allowed pair, of one head."""
    return [
        (i - j, float(x[i, j]))
        for x, ok in zip(patterns, allowed, strict=True)
        for i in range(x.shape[0])
        for j in range(x.shape[1])
        if ok[i, j] and abs(i - j) <= max_offset
    ]


def eta_squared(pairs) -> float:
    offsets, values = (np.array(v) for v in zip(*pairs, strict=True))
    mean = values.mean()
    between = sum(
        (offsets == o).sum() * (values[offsets == o].mean() - mean) ** 2 for o in set(offsets)
    )
    return between / ((values - mean) ** 2).sum()


@pytest.mark.parametrize("max_offset", [3, 20])
def test_profile_by_loops(max_offset):
    patterns = [random_patterns(n) for n in (5, 9, 1)]
    sums = sum(interp.measures.offset_sums(p, causal(p.shape[-1]), 0, max_offset) for p in patterns)
    seen = interp.measures.offset_profile(sums.numpy())
    for head in range(2):
        pairs = pairs_by_loops(
            [p[head] for p in patterns], [causal(p.shape[-1]) for p in patterns], max_offset
        )
        for k, offset in enumerate(seen.offsets):
            values = [v for o, v in pairs if o == offset]
            assert seen.pairs[head, k] == len(values)
            assert seen.mean[head, k] == pytest.approx(np.mean(values))
            assert seen.std[head, k] == pytest.approx(np.std(values), abs=1e-7)
        assert set(seen.offsets) == {o for o, _ in pairs}
        assert seen.share[head] == pytest.approx(eta_squared(pairs))


def test_offsets_of_later_queries_and_of_keys_ahead():
    x = torch.from_numpy(rng.random((1, 3, 7)))
    everything = torch.ones(3, 7).bool()
    sums = interp.measures.offset_sums(x, everything, 4, 5)[1, 0]
    for k, offset in enumerate(range(-5, 6)):
        expected = sum(float(x[0, i, j]) for i in range(3) for j in range(7) if 4 + i - j == offset)
        assert sums[k] == pytest.approx(expected)


def test_what_is_not_allowed_may_hold_anything():
    x = random_patterns(6)
    dirty = x.masked_fill(~causal(6), torch.nan)
    a, b = (interp.measures.offset_sums(v, causal(6), 0, 8) for v in (x, dirty))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("centre", [False, True])
def test_shuffled_share_is_what_shuffling_gives(centre):
    """The closed form against a thousand shuffles of a head that does care for offsets."""
    n = 8
    x = torch.from_numpy(
        rng.random((1, n, n)) + np.exp(-np.abs(np.subtract.outer(range(n), range(n))))
    )
    seen = interp.measures.offset_profile(
        interp.measures.offset_sums(x, causal(n), 0, n, centre=centre).numpy()
    )
    shares = []
    for _ in range(1000):
        shuffled = x.clone()
        for i in range(n):
            shuffled[0, i, : i + 1] = x[0, i, rng.permutation(i + 1)]
        sums = interp.measures.offset_sums(shuffled, causal(n), 0, n, centre=centre)
        shares.append(interp.measures.offset_profile(sums.numpy()).share[0])
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - seen.shuffled[0]) < 4 * error
    assert seen.share[0] > np.quantile(shares, 0.99)


def test_heads_without_a_preference_show_the_shuffled_share():
    """The null: exchangeable keys; the share is at its control over many heads."""
    x = random_patterns(14, heads=300)
    seen = interp.measures.offset_profile(interp.measures.offset_sums(x, causal(14), 0, 14).numpy())
    difference = seen.share - seen.shuffled
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(300)


def test_a_previous_token_head_is_explained_by_the_offset():
    x = torch.zeros(1, 9, 9, dtype=torch.float64)
    x[0, range(1, 9), range(8)] = 1
    x[0, 0, 0] = 1
    seen = interp.measures.offset_profile(
        interp.measures.offset_sums(x[:, 1:], causal(9)[1:], 1, 8).numpy()
    )
    assert seen.share[0] == pytest.approx(1)
    assert seen.shuffled[0] < 0.4


def test_a_constant_pattern_has_no_share():
    seen = interp.measures.offset_profile(
        interp.measures.offset_sums(torch.ones(1, 4, 4), causal(4), 0, 3).numpy()
    )
    assert np.isnan(seen.share).all()
    assert np.isnan(seen.shuffled).all()


# ---- on models -------------------------------------------------------------------------------


def test_share_interval_is_the_jackknife_of_a_plain_loop():
    groups = [offset_sums(random_patterns(9, heads=2), causal(9), 0, 8).numpy() for _ in range(6)]
    sums = np.stack([*groups, np.zeros_like(groups[0])])
    low, high = share_interval(sums)
    whole = offset_profile(sums.sum(axis=0)).share
    for head in range(2):
        left = [offset_profile(sum(groups) - g).share[head] for g in groups]
        se = np.sqrt(5 / 6 * sum((x - np.mean(left)) ** 2 for x in left))
        half = stats.t.ppf(0.975, 5) * se
        assert high[head] == pytest.approx(min(whole[head] + half, 1))
        assert low[head] == pytest.approx(max(whole[head] - half, 0))
    assert np.isnan(share_interval(sums[:1])[0]).all()


def test_share_interval_covers_the_share_of_many_prompts():
    def draw(n):
        return [offset_sums(random_patterns(7, heads=1), causal(7), 0, 6).numpy() for _ in range(n)]

    truth = offset_profile(sum(draw(600))).share[0]
    hits, runs = 0, 60
    for _ in range(runs):
        folds = [sum(draw(4)) for _ in range(10)]
        low, high = share_interval(np.stack(folds))
        hits += low[0] <= truth <= high[0]
    assert hits / runs > 0.8, "the share of few prompts is a little too large, so not quite 95 %"


def test_position_profile_keeps_the_contract():
    interp.check_analysis(PositionProfile())
    interp.check_analysis(PositionProfile(max_offset=2, special=True))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_position_profile_of_a_model(request, name):
    model = request.getfixturevalue(name)
    result = interp.run(model, TEXTS, ["position_profile"], progress=False)["position_profile"]
    patterns, scores, allowed = [], [], []
    with torch.no_grad():
        for text in TEXTS:
            _, cache = model.run_with_cache(model.to_tokens(text))
            # Without the special first token, neither as query nor as key.
            patterns.append(cache["blocks.1.attn.hook_pattern"][0, 2, 1:, 1:].double())
            x = cache["blocks.1.attn.hook_attn_scores"][0, 2, 1:, 1:].double()
            ok = causal(len(x))
            mean = x.masked_fill(~ok, 0).sum(-1) / ok.sum(-1)
            scores.append(x - mean[:, None])
            allowed.append(ok)
    frame = result.frame.query("layer == 1 and head == 2").set_index("offset")
    for column, values in (("pattern", patterns), ("score", scores)):
        pairs = pairs_by_loops(values, allowed, 64)
        for offset, group in frame.iterrows():
            expected = np.mean([v for o, v in pairs if o == offset])
            assert group[column] == pytest.approx(expected, abs=1e-6)
        assert frame[f"{column}_share"].iloc[0] == pytest.approx(eta_squared(pairs), rel=1e-4)
    assert sorted(frame.index) == list(range(max(len(p) for p in patterns)))
    result.plot()


@pytest.mark.parametrize(
    ("ids", "least"),
    [
        (range(2), 2),
        (range(10), 10),
        (range(30), 10),
        (range(0, 300, 10), 8),
        (range(0, 3000, 100), 8),
        (range(7, 300_000, 10_000), 8),
    ],
    ids=["2", "10", "30", "tens", "hundreds", "ten thousands"],
)
def test_folds_fill_up_whatever_the_numbers_of_prompts_are(ids, least):
    folds = position_profile._folds(torch.tensor(list(ids)))
    counts = np.bincount(folds.numpy(), minlength=10)
    assert (counts > 0).sum() >= least
    assert counts.max() <= max(8, 3 * len(ids) / 10), "about equally many"
    again = [int(position_profile._folds(torch.tensor([i]))[0]) for i in ids]
    assert folds.tolist() == again, "the same in any batch"


def test_documents_numbered_by_tens_have_an_interval(gpt2):
    """As a corpus numbers them."""
    tokens = gpt2.to_tokens(TEXTS[0])
    with torch.no_grad():
        _, cache = gpt2.run_with_cache(tokens)
    found = []
    for step in (1, 10):
        batches = [_batch(cache, tokens, number * step, number) for number in range(12)]
        state = {}
        for batch in batches:
            leaves = {("", 0): PositionProfile().observe(batch)}
            state = merge_states(state, leaves)
        found.append(PositionProfile().table(state))
    for column in ("pattern_share_low", "pattern_share_high"):
        assert found[1][column].notna().all()
    pd.testing.assert_series_equal(found[0]["pattern_share"], found[1]["pattern_share"])


def _batch(cache, tokens, number, version):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    # One text in a dozen versions, that are not alike.
    pattern = cache["blocks.0.attn.hook_pattern"].double() ** (1 + version / 12)
    pattern = pattern / pattern.sum(-1, keepdim=True)
    positions = torch.arange(tokens.shape[1]).expand_as(tokens)
    return Batch(
        tokens=tokens,
        mask=mask,
        special=positions == 0,
        positions=positions,
        targets=torch.full_like(tokens, -1),
        ids=torch.tensor([number]),
        key_tokens=tokens,
        key_mask=mask,
        sites={"pattern": pattern},
        layer=0,
    )


def test_a_state_of_an_earlier_version_loads_and_has_no_interval():
    """Its documents, numbered by tens, all lie in one fold; what it holds is read as it is."""
    sums = offset_sums(random_patterns(8), causal(8), 0, 64).numpy()
    folds = np.zeros((10, *sums.shape))
    folds[0] = sums
    state = {("", 0): {"pattern": Sum.from_arrays({"total": folds})}}
    table = PositionProfile().table(state)
    expected = offset_profile(sums)
    assert table["pattern_share"].to_numpy()[:: len(expected.offsets)] == pytest.approx(
        expected.share
    )
    assert table["pattern_share_low"].isna().all()


def test_special_tokens_count_when_asked_for(gpt2):
    tokens = gpt2.to_tokens(TEXTS[0])
    with interp.attach(gpt2, PositionProfile(special=True)) as probes, torch.no_grad():
        gpt2(tokens)
    whole = probes["position_profile"].frame
    assert whole.query("layer == 0 and head == 0")["pairs"].sum() == 9 * 10 / 2


# ---- rollout ---------------------------------------------------------------------------------


def test_rollout_by_loops(gpt2):
    result = interp.run(gpt2, TEXTS, Attention(maps=2), progress=False)["attention"]
    seen = interp.experiments.rollout_maps(result)
    assert sorted(seen) == [0, 1]
    for prompt in seen:
        with torch.no_grad():
            _, cache = gpt2.run_with_cache(gpt2.to_tokens(TEXTS[prompt]))
        n = seen[prompt].shape[-1]
        total = np.eye(n)
        for layer in range(len(gpt2.blocks)):
            mean = cache[f"blocks.{layer}.attn.hook_pattern"][0].double().mean(0).numpy()
            new = np.zeros((n, n))
            for i in range(n):
                for k in range(n):
                    new[i, k] = 0.5 * total[i, k] + sum(
                        0.5 * mean[i, j] * total[j, k] for j in range(n)
                    )
            total = new
            np.testing.assert_allclose(seen[prompt][layer], total, atol=1e-6)
    np.testing.assert_allclose(seen[0].sum(-1), 1)


def test_even_rollout_is_the_control():
    maps = {
        ("", n): {"pattern": interp.Examples(1, {0: random_patterns(5).numpy()})} for n in (0, 1)
    }
    result = interp.Result("attention", Attention(), maps, None)
    even = np.tri(5) / np.arange(1, 6)[:, None]
    mixed = (even + np.eye(5)) / 2
    np.testing.assert_allclose(
        interp.experiments.rollout_maps(result, uniform=True)[0][1], mixed @ mixed
    )
    straight = interp.experiments.rollout_maps(result, residual=0, uniform=True)[0][1]
    np.testing.assert_allclose(straight, even @ even)
    with pytest.raises(BadInput, match="residual=1"):
        interp.experiments.rollout_maps(result, residual=1)
    with pytest.raises(interp.errors.UnknownName, match="stack 'encoder'"):
        interp.experiments.rollout_maps(result, stack="encoder")
    gap = interp.Result(
        "attention", Attention(), {("", 2): maps["", 0], ("", 0): maps["", 1]}, None
    )
    with pytest.raises(BadInput, match=r"blocks \[1\] have no attention pattern"):
        interp.experiments.rollout_maps(gap)


def test_rollout_needs_maps(gpt2):
    result = interp.run(gpt2, TEXTS, Attention(maps=0), progress=False)["attention"]
    with pytest.raises(
        BadInput, match="kept no attention maps; run the analysis attention with maps=1"
    ):
        interp.experiments.rollout_maps(result)


# ---- head types ------------------------------------------------------------------------------


def world(patterns, tokens) -> interp.Result:
    """An attention result of `patterns[prompt] [head, n, n]` over `tokens[prompt]`, by loops."""
    rows = []
    for prompt, (x, ids) in enumerate(zip(patterns, tokens, strict=True)):
        for head in range(len(x)):
            for i in range(len(ids)):
                copies = [j for j in range(i) if ids[j] == ids[i]]
                row = x[head, i]
                rows.append(
                    {
                        "prompt": prompt,
                        "position": i,
                        "token_id": ids[i],
                        "layer": 0,
                        "head": head,
                        "special": i == 0,
                        "distance": sum(float(a) * (i - j) for j, a in enumerate(row)),
                        "sink": float(row[0]),
                        "previous": float(row[i - 1]) if i else np.nan,
                        "duplicate": sum(float(row[j]) for j in copies) if copies else np.nan,
                        "induction": sum(float(row[j + 1]) for j in copies) if copies else np.nan,
                    }
                )
    frame = pd.DataFrame(rows)
    return interp.Result("attention", Attention(), {}, frame[["prompt", "position"]], _frame=frame)


def even(n: int) -> np.ndarray:
    return np.tri(n) / np.arange(1, n + 1)[:, None]


def test_head_types_find_what_each_head_was_made_to_do():
    tokens = [[0, *(rng.permutation(np.arange(1, 20))[:6].tolist() * 2)] for _ in range(6)]
    patterns = []
    for ids in tokens:
        n = len(ids)
        heads = np.repeat(even(n)[None], 5, axis=0)
        for i in range(1, n):
            copies = [j for j in range(i) if ids[j] == ids[i]]
            aims = [i - 1, copies[0] + 1 if copies else None, copies[0] if copies else None, 0]
            for head, aim in enumerate(aims):
                if aim is not None:
                    heads[head, i] *= 0.2
                    heads[head, i, aim] += 0.8
        patterns.append(heads)
    table = interp.experiments.head_types(world(patterns, tokens)).frame
    assert table.groupby("head")["types"].first().tolist() == [
        *("previous", "induction", "duplicate", "sink", "none")
    ]
    flat = table.query("head == 4")
    np.testing.assert_allclose(flat["score"], flat["uniform"])
    np.testing.assert_allclose(flat["difference"], 0, atol=1e-12)
    aimed = table.query("typed")
    assert np.allclose(aimed["excess"], 0.8, atol=1e-9)
    assert (aimed["difference_low"] > 0).all()
    assert table.query("kind == 'induction'")["tokens"].unique().tolist() == [36]
    assert table.query("kind == 'sink'")["tokens"].unique().tolist() == [72]
    result = world(patterns, tokens)
    result.frame["special"] = result.frame["position"].isin([0, 5])
    fewer, all_of = (
        interp.experiments.head_types(result, special=keep).frame for keep in (False, True)
    )
    assert fewer.query("kind == 'sink'")["tokens"].unique().tolist() == [66]
    pd.testing.assert_frame_equal(all_of, table)


def test_a_head_is_of_every_type_that_it_shows():
    """Induction where a token has come before, the first token elsewhere: it is both."""
    tokens = [[0, *(rng.permutation(np.arange(1, 20))[:8].tolist() * 2)] for _ in range(6)]
    patterns = []
    for ids in tokens:
        heads = np.repeat(even(len(ids))[None], 2, axis=0)
        for i in range(1, len(ids)):
            copies = [j for j in range(i) if ids[j] == ids[i]]
            heads[0, i] = 0
            heads[0, i, copies[0] + 1 if copies else 0] = 1  # induction, else rest
        patterns.append(heads)
    found = interp.experiments.head_types(world(patterns, tokens))
    assert found.sentence == ("1 of 2 heads have a type, 1 of them several: 1 induction, 1 sink")
    table = found.frame
    both = table.query("head == 0")
    assert set(both["types"]) == {"induction+sink"}
    assert both.set_index("kind")["typed"].to_dict() == {
        "previous": False,
        "induction": True,
        "duplicate": False,
        "sink": True,
    }
    assert set(table.query("head == 1")["types"]) == {"none"}
    stricter = interp.experiments.head_types(world(patterns, tokens), threshold=0.9).frame
    assert set(stricter.query("head == 0")["types"]) == {"induction"}


def test_head_types_of_heads_that_look_anywhere_keep_their_level():
    """The null: exchangeable keys. Intervals cover the control as often as they say; no types."""
    tokens = [rng.integers(1, 6, size=12).tolist() for _ in range(15)]
    patterns = [random_patterns(12, heads=40).numpy() for _ in tokens]
    table = interp.experiments.head_types(world(patterns, tokens), resamples=300).frame
    assert (table["types"] == "none").all()
    for _, rows in table.groupby("kind"):
        missed = ((rows["difference_low"] > 0) | (rows["difference_high"] < 0)).sum()
        assert missed <= 8  # of 40 at 5 %: more has probability 0.0003


def test_head_types_of_a_model(gpt2):
    tokens = torch.cat([torch.ones(5, 1).long(), torch.randint(5, 100, (5, 6)).repeat(1, 2)], 1)
    result = interp.run(gpt2, tokens, Attention, progress=False)["attention"]
    table = interp.experiments.head_types(result, resamples=200).frame
    assert len(table) == 3 * 4 * 4
    frame = result.frame.query("not special")
    for row in table.itertuples():
        scores = frame.query("layer == @row.layer and head == @row.head")[row.kind]
        assert row.score == pytest.approx(scores.astype(float).mean(), rel=1e-5)
        assert row.tokens == scores.notna().sum()
    # Of an untrained model every head is nearly even.
    assert (table["types"] == "none").all()


def test_head_types_refuse_what_they_cannot_read(gpt2):
    results = interp.run(gpt2, TEXTS, ["attention", "rotation"], keep="summary", progress=False)
    with pytest.raises(BadInput, match="has no column 'prompt'; .* rows per token"):
        interp.experiments.head_types(results["attention"])
    result = interp.run(gpt2, TEXTS, ["attention"], progress=False)["attention"]
    with pytest.raises(BadInput, match="threshold=2"):
        interp.experiments.head_types(result, threshold=2)
    alone = interp.experiments.head_types(
        interp.run(gpt2, TEXTS[:1], "attention", progress=False)["attention"]
    ).frame
    assert alone["difference_low"].isna().all()
    assert (alone["types"] == "none").all()
