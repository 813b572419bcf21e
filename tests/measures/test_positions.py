"""Positions: closed forms, NumPy's FFT, scikit-learn, and the model's own scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

import interp
from analyses.positions import Positions
from interp import BadInput
from interp.errors import Unsupported
from interp.measures import positions

rng = np.random.default_rng(11)


def test_sinusoids_by_loops_and_their_shift_is_a_rotation():
    n, d = 30, 8
    pe = interp.measures.sinusoidal(n, d)
    for p in range(n):
        for k in range(d // 2):
            angle = p / 10000 ** (2 * k / d)
            assert pe[p, 2 * k] == pytest.approx(np.sin(angle))
            assert pe[p, 2 * k + 1] == pytest.approx(np.cos(angle))
    for delta in (1, 7):
        rotation = interp.measures.shift_rotation(delta, d)
        np.testing.assert_allclose(pe[delta:], pe[:-delta] @ rotation.T, atol=1e-12)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(d), atol=1e-12)
        assert np.linalg.det(rotation) == pytest.approx(1)
    with pytest.raises(BadInput, match="even number, not 7"):
        interp.measures.sinusoidal(4, 7)


def test_periods_of_known_waves():
    p = np.arange(64)
    waves = np.stack([3 * np.sin(2 * np.pi * p / 16), np.cos(2 * np.pi * p / 4)], 1)
    rotated = waves @ np.linalg.qr(rng.standard_normal((2, 2)))[0]
    period, share = positions.dominant_periods(rotated)
    np.testing.assert_allclose(period, [16, 4])
    np.testing.assert_allclose(share, 1)


@pytest.mark.parametrize("n", [31, 32])
def test_periods_by_the_full_transform(n):
    x = rng.standard_normal((n, 4))
    period, share = positions.dominant_periods(x)
    courses = PCA().fit_transform(x)
    for i in range(4):
        power = np.abs(np.fft.fft(courses[:, i])) ** 2
        both = {f: power[f] + (power[n - f] if f != n - f else 0) for f in range(1, n // 2 + 1)}
        best = max(both, key=both.get)
        assert period[i] == pytest.approx(n / best)
        assert share[i] == pytest.approx(both[best] / power[1:].sum())


def test_share_of_the_sinusoids_and_its_chance():
    pe = interp.measures.sinusoidal(100, 12)
    mixed = pe @ rng.standard_normal((12, 12))
    assert positions.sinusoidal_share(mixed)[0] == pytest.approx(1)
    shares = []
    for _ in range(400):
        share, chance = positions.sinusoidal_share(rng.permutation(mixed))
        shares.append(share)
    assert abs(np.mean(shares) - chance) < 4 * np.std(shares) / 20
    x = rng.standard_normal((100, 12)) + pe
    fit = LinearRegression().fit(pe, x)
    expected = ((fit.predict(pe) - x.mean(0)) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert positions.sinusoidal_share(x)[0] == pytest.approx(expected, abs=1e-6)


def test_the_share_of_the_sinusoids_hangs_on_the_cutoff_as_told():
    x = rng.standard_normal((100, 24)) + positions.sinusoidal(100, 24)
    basis = positions.sinusoidal(100, 24)
    singular = np.linalg.svd(basis - basis.mean(0), compute_uv=False)
    shares = []
    for cutoff in (0.1, 1e-3, 1e-6, 1e-12):
        share, chance = interp.measures.sinusoidal_share(x, cutoff=cutoff)
        rank = interp.measures.sinusoidal_rank(100, 24, cutoff=cutoff)
        assert rank == (singular > cutoff * singular[0]).sum()
        assert chance == pytest.approx(rank / 99)
        shuffled = [
            interp.measures.sinusoidal_share(rng.permutation(x), cutoff=cutoff)[0]
            for _ in range(200)
        ]
        assert abs(np.mean(shuffled) - chance) < 5 * np.std(shuffled) / 200**0.5
        shares.append(share)
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]
    with pytest.raises(BadInput, match="cutoff=0; it is a share of the largest singular value"):
        interp.measures.sinusoidal_share(x, cutoff=0)


def test_the_demo_has_the_shares_of_the_docstring():
    weights = interp.models.position_matrix(interp.load_model("demo"))
    found = [interp.measures.sinusoidal_share(weights, cutoff=cutoff) for cutoff in (1e-2, 1e-12)]
    np.testing.assert_allclose(found, [(0.91, 0.24), (0.95, 0.31)], atol=0.006)


def test_a_shift_of_sinusoids_is_linear_and_of_noise_is_not():
    assert positions.shift_linearity(interp.measures.sinusoidal(128, 16), 5) == pytest.approx(1)
    noise = [positions.shift_linearity(rng.standard_normal((128, 16)), 5) for _ in range(20)]
    assert np.mean(noise) < 0
    assert max(noise) < 0.1
    assert np.isnan(positions.shift_linearity(interp.measures.sinusoidal(22, 4), 4))
    with pytest.raises(BadInput, match="shift=0"):
        positions.shift_linearity(noise_matrix(), 0)


def noise_matrix() -> np.ndarray:
    return rng.standard_normal((60, 6)).cumsum(0)


def test_linearity_of_a_shift_by_scikit_learn():
    x, shift, folds = noise_matrix(), 3, 4
    n = len(x) - shift
    residual = total = 0.0
    for test in np.array_split(range(n), folds):
        touched = {*test.tolist(), *(test + shift).tolist()}
        train = [p for p in range(n) if p not in touched and p + shift not in touched]
        pca = PCA(2).fit(x[train])
        targets = x[[p + shift for p in train]]
        fit = LinearRegression().fit(pca.transform(x[train]), targets)
        residual += ((fit.predict(pca.transform(x[test])) - x[test + shift]) ** 2).sum()
        total += ((x[test + shift] - targets.mean(0)) ** 2).sum()
    seen = positions.shift_linearity(x, shift, components=2, folds=folds)
    assert seen == pytest.approx(1 - residual / total)


def test_positions_keeps_the_contract():
    interp.check_analysis(Positions())
    interp.check_analysis(Positions(shifts=(), first=8, draws=0))


def test_positions_of_a_model(gpt2):
    result = interp.run(gpt2, ["the man"], ["positions"], progress=False)["positions"]
    weights = gpt2.W_pos.detach().double().numpy()
    frame = result.frame
    np.testing.assert_allclose(frame["share"], PCA().fit(weights).explained_variance_ratio_)
    first = frame.iloc[0]
    assert first["sinusoidal_share"] == pytest.approx(positions.sinusoidal_share(weights)[0])
    assert first["sinusoidal_chance"] == pytest.approx(first["sinusoidal_rank"] / 63)
    # Freshly initialised positions know no order: they are like their controls.
    assert first["sinusoidal_share"] == pytest.approx(first["sinusoidal_chance"], abs=0.1)
    assert first["shift_1"] < 0.1
    assert frame["peak_share"].mean() == pytest.approx(frame["shuffled_peak_share"].mean(), rel=0.2)
    assert set(result.values) <= set(result.columns)
    result.plot()
    with pytest.raises(BadInput, match="first=900 of 64 positions"):
        interp.run(gpt2, ["the man"], Positions(first=900), progress=False)


def test_models_without_learned_positions_are_refused_by_name(llama):
    with pytest.raises(
        Unsupported,
        match="no matrix W_pos: .* their kind is 'rotary'",
    ):
        interp.run(llama, ["the man"], ["positions"], progress=False)


# ---- at the input of a model -----------------------------------------------------------------

TEXT = "the man saw her in a red house"


@pytest.fixture(scope="module")
def biased(gpt2):
    """A GPT-2 whose norms and projections have biases, which a fresh one has not."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    size = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 40}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=113, **size, bos_token_id=1, eos_token_id=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return interp.load_model(model.eval(), gpt2.tokenizer)


def test_a_split_is_drawn_part_by_part(gpt2):
    """Every part and the sum on one scale; what does not count is empty."""
    split = interp.experiments.split_scores(gpt2, TEXT)
    figure = split.plot(head=1)
    names = [note.text for note in figure.layout.annotations]
    assert names[-1] == "sum"
    for name, drawn in zip([*split.parts, "total"], figure.data, strict=True):
        values = (split.parts | {"total": split.total})[name][1]
        seen = np.asarray(drawn.z, dtype=float)
        np.testing.assert_allclose(seen[split.allowed], values[split.allowed], rtol=1e-3, atol=1e-9)
        assert np.isnan(seen[~split.allowed]).all()
    with pytest.raises(BadInput, match="head 9 is not there: there are heads 0 … "):
        split.plot(head=9)
    cosines = interp.experiments.split_cosines(gpt2, TEXT)
    assert len(cosines.plot().data) == 5
    with pytest.raises(BadInput, match="cosines of states, which have no heads"):
        cosines.plot(head=0)


def test_cosine_parts_by_loops():
    v, p = rng.standard_normal((2, 5, 4))
    parts = interp.experiments.cosine_parts(torch.from_numpy(v), torch.from_numpy(p))
    z = v + p
    for i in range(5):
        for j in range(5):
            size = np.linalg.norm(z[i]) * np.linalg.norm(z[j])
            expected = [v[i] @ v[j], v[i] @ p[j], p[i] @ v[j], p[i] @ p[j]]
            for name, value in zip(parts, expected, strict=True):
                assert parts[name][i, j] == pytest.approx(value / size)
            assert sum(float(x[i, j]) for x in parts.values()) == pytest.approx(z[i] @ z[j] / size)


def test_cosines_of_a_prompt(biased):
    split = interp.experiments.split_cosines(biased, TEXT)
    ids = biased.to_tokens(TEXT)[0]
    z = (biased.W_E[ids] + biased.W_pos[: len(ids)]).detach().double().numpy()
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    np.testing.assert_allclose(split.total, unit @ unit.T, atol=1e-6)
    np.testing.assert_allclose(sum(split.parts.values()), split.total, atol=1e-6)
    assert not split.allowed[0].any()
    assert not split.allowed.diagonal().any()
    assert split.frame["share"].sum() == pytest.approx(1, abs=1e-5)
    assert split.tokens[1] == "the"


def test_scores_of_the_first_block_by_hand(biased):
    split = interp.experiments.split_scores(biased, TEXT)
    assert split.error < 1e-4
    ids = biased.to_tokens(TEXT)[0]
    v = biased.W_E[ids].detach().double().numpy()
    p = biased.W_pos[: len(ids)].detach().double().numpy()
    x = v + p
    sigma = np.sqrt(x.var(1, keepdims=True) + 1e-5)
    ln = biased.blocks[0].ln1
    gain = ln.weight.detach().double().numpy()
    pieces = {
        "token": gain * (v - v.mean(1, keepdims=True)) / sigma,
        "position": gain * (p - p.mean(1, keepdims=True)) / sigma,
    }
    attn = biased.blocks[0].attn
    for head in range(3):
        w_q, w_k = (w[head].detach().double().numpy() for w in (attn.W_Q, attn.W_K))
        for a in pieces:
            for b in pieces:
                expected = np.tril((pieces[a] @ w_q) @ (pieces[b] @ w_k).T / np.sqrt(8))
                np.testing.assert_allclose(split.parts[f"{a}_{b}"][head], expected, atol=1e-9)
    assert np.abs(split.parts["bias"]).max() > 0.1
    with torch.no_grad():
        _, cache = biased.run_with_cache(ids[None])
    scores = cache["blocks.0.attn.hook_attn_scores"][0].double().numpy()
    where = np.broadcast_to(np.tri(len(ids), dtype=bool), scores.shape)
    np.testing.assert_allclose(sum(split.parts.values())[where], scores[where], atol=1e-4)
    shares = split.frame.groupby("head")["share"].sum()
    np.testing.assert_allclose(shares, 1, atol=1e-4)


LONGER = "the man saw her in a red house by the river and took the old dog home to her king"


@pytest.fixture(scope="module")
def zoo():
    """Tiny models of the zoo by name, each built once."""
    from functools import cache

    from zoo import ZOO
    from zoo.boot import boot

    @cache
    def booted(name: str):
        torch.manual_seed(1)
        return boot(ZOO[name])

    return booted


def fitted(x: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, float]:
    """f(i − j) at its pairs and its share, by dummy columns for rows and distances."""
    i, j = np.nonzero(allowed)
    columns = [(i == row).astype(float) for row in set(i)]
    columns += [(i - j == distance).astype(float) for distance in sorted(set(i - j))]
    design = np.stack(columns, axis=1)
    coefficients = np.linalg.lstsq(design, x[allowed], rcond=None)[0]
    f = coefficients[len(set(i)) :]
    f = dict(zip(sorted(set(i - j)), f - f.mean(), strict=True))
    only_rows = np.linalg.lstsq(design[:, : len(set(i))], x[allowed], rcond=None)[0]
    around = x[allowed] - design[:, : len(set(i))] @ only_rows
    left = x[allowed] - design @ coefficients
    out = np.zeros_like(x)
    out[allowed] = [f[d] for d in i - j]
    return out, 1 - (left**2).sum() / (around**2).sum()


@pytest.mark.parametrize("name", ["llama", "mistral", "t5", "opt", "gemma2"])
def test_the_part_of_distance_by_dummy_columns(zoo, name):
    """Causal, sliding window, both ways with a bias, scores shown after the softmax, soft cap."""
    model = zoo(name)
    split = interp.experiments.split_distance(model, LONGER, block=1)
    frame = split.frame.set_index(["head", "part"])
    assert split.allowed.any()
    for head in range(len(split.total)):
        part, share = fitted(split.total[head], split.allowed)
        np.testing.assert_allclose(split.parts["distance"][head], part, atol=1e-9)
        assert frame.loc[(head, "distance"), "share"] == pytest.approx(share)
    np.testing.assert_allclose(sum(split.parts.values()), split.total, atol=1e-12)
    np.testing.assert_allclose(frame.groupby("head")["share"].sum(), 1)
    np.testing.assert_allclose(frame.groupby("head")["shuffled_share"].sum(), 1)


def test_the_share_of_shuffled_keys_by_shuffling(llama):
    split = interp.experiments.split_distance(llama, TEXT)
    i, j = np.nonzero(split.allowed)
    columns = [i == row for row in set(i)] + [i - j == d for d in set(i - j)]
    design = np.stack(columns, axis=1).astype(float)
    rows, _, _ = np.linalg.svd(design[:, : len(set(i))], full_matrices=False)
    every, sizes, _ = np.linalg.svd(design, full_matrices=False)
    every = every[:, sizes > 1e-9]
    for head in range(len(split.total)):
        x, shares = split.total[head][split.allowed], []
        for _ in range(600):
            order = np.lexsort((rng.random(len(i)), i))  # i ascends: keys change within rows
            shuffled = x[order]
            inside = shuffled - rows @ (rows.T @ shuffled)
            left = shuffled - every @ (every.T @ shuffled)
            shares.append(1 - (left**2).sum() / (inside**2).sum())
        chance = split.shuffled["distance"][head]
        assert abs(np.mean(shares) - chance) < 4 * np.std(shares) / np.sqrt(600)
        assert 0.2 < chance < 0.9, "so short a text leaves much to chance"


def test_a_bias_of_distance_is_in_the_distance_part_exactly(zoo):
    """Least squares is linear: without the bias, what is left is the fit of q·k alone."""
    model = zoo("bloom")
    split = interp.experiments.split_distance(model, LONGER)
    heads, n = split.total.shape[:2]
    slopes = 2.0 ** (-8 * np.arange(1, heads + 1) / heads)  # Press et al. 2022, a power of two
    distance = np.subtract.outer(np.arange(n), np.arange(n))
    for head, slope in enumerate(slopes):
        bare = split.total[head] + slope * distance
        content, _ = fitted(bare, split.allowed)
        bias = (split.parts["distance"][head] - content)[split.allowed]
        expected = -slope * distance[split.allowed]
        np.testing.assert_allclose(bias - bias[0], expected - expected[0], atol=1e-5)
        assert np.abs(expected).max() > 0.01


def test_the_learned_bias_of_t5_is_in_the_distance_part_exactly(zoo):
    from transformers.models.t5.modeling_t5 import T5Attention

    model = zoo("t5")
    table = model._driver.underlying_model.encoder.block[0].layer[0].SelfAttention
    weight = table.relative_attention_bias.weight
    before, with_bias = weight.detach().clone(), interp.experiments.split_distance(model, LONGER)
    with torch.no_grad():
        weight.zero_()
        without = interp.experiments.split_distance(model, LONGER)
        weight.copy_(before)
    offset = torch.arange(-len(LONGER), len(LONGER) + 1)
    bucket = T5Attention._relative_position_bucket(
        offset, True, table.relative_attention_num_buckets, table.relative_attention_max_distance
    )
    i, j = np.nonzero(with_bias.allowed)
    for head in range(len(with_bias.total)):
        parts = [s.parts["distance"][head][i, j] for s in (with_bias, without)]
        seen, expected = parts[0] - parts[1], before[bucket[j - i + len(LONGER)], head].numpy()
        np.testing.assert_allclose(seen - seen[0], expected - expected[0], atol=1e-4)
        assert np.ptp(expected) > 0.1


def test_pairs_outside_of_a_window_and_special_tokens_do_not_count(zoo):
    split = interp.experiments.split_distance(zoo("mistral"), LONGER)
    n = len(split.tokens)
    expected = np.tri(n, dtype=bool) & ~np.tri(n, k=-4, dtype=bool)
    expected[0] = expected[:, 0] = False  # BOS
    np.testing.assert_array_equal(split.allowed, expected)
    assert set(np.unique(np.subtract.outer(range(n), range(n))[split.allowed])) == {0, 1, 2, 3}


def test_scores_shown_after_the_softmax_are_had_from_the_pattern(zoo):
    """What a model without scores would give is what its scores give, up to a constant per row."""
    from dataclasses import replace

    from interp.experiments import score_split as input_split

    model = zoo("llama")
    known = interp.inspect(model)
    bare = replace(known, stacks=tuple(replace(s, scores_pre_softmax=False) for s in known.stacks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(input_split, "inspect", lambda _: bare)
        logs = interp.experiments.split_distance(model, LONGER)
    scores = interp.experiments.split_distance(model, LONGER)
    np.testing.assert_allclose(logs.parts["distance"], scores.parts["distance"], atol=1e-4)
    np.testing.assert_allclose(logs.frame["share"], scores.frame["share"], atol=1e-4)
    np.testing.assert_allclose(logs.total, scores.total, atol=1e-4)


def test_attention_that_goes_to_a_sink_leaves_the_scores_of_the_keys(zoo):
    model = zoo("gpt-oss")
    split = interp.experiments.split_distance(model, LONGER, block=1)
    with torch.no_grad():
        _, cache = model.run_with_cache(model.to_tokens(LONGER))
    assert (cache["blocks.1.attn.hook_pattern"].sum(-1) < 0.99).any()
    scores = cache["blocks.1.attn.hook_attn_scores"][0].double().numpy()
    for head in range(len(scores)):
        part, _ = fitted(scores[head], split.allowed)
        np.testing.assert_allclose(split.parts["distance"][head], part, atol=1e-5)
        for i, seen in enumerate(split.allowed):
            own = scores[head, i, seen]
            expected = own - own.mean() if seen.any() else own
            np.testing.assert_allclose(split.total[head, i, seen], expected, atol=1e-5)


def test_a_head_without_any_difference_has_no_share(zoo):
    model = zoo("llama")
    weights = model._driver.underlying_model.model.layers[0].self_attn.q_proj.weight
    before = weights.detach().clone()
    with torch.no_grad():
        weights.zero_()
        split = interp.experiments.split_distance(model, TEXT)
        weights.copy_(before)
    assert split.frame[["share", "shuffled_share"]].isna().all(axis=None)


def test_a_split_by_distance_that_cannot_be_is_refused_by_name(zoo, llama):
    with pytest.raises(BadInput, match=r"block 7 of .*: it has 0 … 2"):
        interp.experiments.split_distance(llama, TEXT, block=7)
    with pytest.raises(BadInput, match="3 ordinary tokens; a split by distance needs 4 or more"):
        interp.experiments.split_distance(llama, "the man saw")
    with pytest.raises(Unsupported, match="block 0 of .* shows no attention pattern of one row"):
        interp.experiments.split_distance(zoo("mamba"), TEXT)
    with pytest.raises(Unsupported, match=r"block 0 of .*; of these blocks there is a pattern: \["):
        interp.experiments.split_distance(zoo("jamba"), TEXT)


def test_shares_do_not_see_a_constant_per_row():
    x, allowed = rng.standard_normal((2, 4, 4)), np.tri(4, dtype=bool)
    total = x[0] + x[1]
    parts = {"a": x[0], "b": x[1]}
    plain = interp.experiments.Split((), parts, total, allowed, 0.0).frame
    moved = interp.experiments.Split(
        (), parts | {"c": np.ones((4, 4))}, total + 1, allowed, 0.0
    ).frame.set_index("part")
    np.testing.assert_allclose(moved.loc[["a", "b"], "share"], plain["share"])
    assert moved.loc["c", "share"] == pytest.approx(0, abs=1e-12)


def test_sums_that_do_not_exist_are_refused_by_name(llama):
    for function in (interp.experiments.split_cosines, interp.experiments.split_scores):
        with pytest.raises(Unsupported, match=r"no sum of token and position .*'rotary'"):
            function(llama, TEXT)
    with pytest.raises(BadInput, match="one prompt is split at a time; these are 2"):
        interp.experiments.split_cosines(llama, torch.ones(2, 3, dtype=torch.int64))


def test_shifted_text_of_learned_positions_by_hand(biased):
    table = interp.experiments.shift_test(biased, TEXT, shifts=(3,))
    ids = biased.to_tokens(TEXT)
    with torch.no_grad():
        _, base = biased.run_with_cache(ids)
        _, moved = biased.run_with_cache(ids, position_ids=torch.arange(ids.shape[1])[None] + 3)
    for layer in range(2):
        x, y = (c[f"blocks.{layer}.hook_resid_pre"][0, 1:].double().numpy() for c in (base, moved))
        row = table.query("layer == @layer").iloc[0]
        size = np.linalg.norm(x, axis=1)
        cosine = (x * y).sum(1) / size / np.linalg.norm(y, axis=1)
        assert row["angle"] == pytest.approx(np.degrees(np.arccos(cosine)).mean(), rel=1e-3)
        change = np.linalg.norm(y - x, axis=1) / size
        assert row["relative_change"] == pytest.approx(change.mean(), rel=1e-4)
        a, b = (c[f"blocks.{layer}.attn.hook_pattern"][0, :, 1:].numpy() for c in (base, moved))
        assert row["pattern_change"] == pytest.approx(np.abs(a - b).sum(-1).mean() / 2, rel=1e-4)
        assert 0 < row["between_tokens"] < 180
    assert table["pattern_change"].isna().tolist() == [False, False, True]


def test_rotary_positions_do_not_see_a_shift(llama):
    table = interp.experiments.shift_test(llama, TEXT)
    assert (table["angle"] < 1e-3).all()
    assert (table["relative_change"] < 1e-4).all()
    assert (table["pattern_change"].dropna() < 1e-5).all()
    assert (table["between_tokens"] > 10).all()


def test_shift_zero_changes_nothing(biased):
    table = interp.experiments.shift_test(biased, TEXT, shifts=(0,))
    assert (table["relative_change"] == 0).all()


def test_shifts_beyond_the_learned_positions_are_refused(biased):
    with pytest.raises(
        BadInput, match=r"9 tokens shifted by 32 ends at position 40, beyond .* 0 … 39 .* is 31"
    ):
        interp.experiments.shift_test(biased, TEXT)
    assert len(interp.experiments.shift_test(biased, TEXT, shifts=(31,))) == 3
    with pytest.raises(BadInput, match="shift -1 is negative"):
        interp.experiments.shift_test(biased, TEXT, shifts=(-1,))
