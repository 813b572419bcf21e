"""Clustered standard errors from sums: equal to statsmodels on the rows, calibrated, mergeable."""

from __future__ import annotations

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import interp
from analyses.attention import Attention
from analyses.rotation import Rotation
from interp.contract import document_sums as clustered
from interp.contract.document_sums import Clustered, DocumentSums, Parting, small_sample
from interp.runs.corpus import shard
from interp.stats.classical import welch_from_moments
from interp.stats.document_tests import clustered_bands, clustered_test, contrast
from interp.stats.means import means

GROUPS = [("a",), ("b",), ("c",)]
TEXT = "the a man queen dog saw told met her him red old house road"
WORDS = TEXT.split()
FULL = bool(os.environ.get("INTERP_FULL"))
RUNS, CORPORA = 200, 150 if FULL else 15
TEXTS = [" ".join(WORDS[(i * 5 + j * j) % len(WORDS)] for j in range(6 + i % 9)) for i in range(20)]


def tokens(n=300, documents=20, *, shared=True, tail=(), seed=0):
    """Codes, documents and values of tokens that hang together, some of them undefined."""
    random = np.random.default_rng(seed)
    document = random.integers(documents, size=n)
    codes = random.integers(-1, 3, size=n) if shared else document % 3
    x = 50 + random.normal(size=(documents, *tail))[document] + random.normal(size=(n, *tail))
    x[random.random(x.shape) < 0.05] = np.nan
    return codes, document, x


def sums(codes, document, x) -> Clustered:
    return Parting.of(codes, GROUPS, document).sums(x, ("kind",)).closed()


def sides(leaf, *names):
    return [np.array([key[0] in side for key in leaf.keys]) for side in names]


def robust(x, is_a, document):
    """Intercept, difference and their covariance without a small-sample factor, by statsmodels."""
    api = pytest.importorskip("statsmodels.api")
    design = np.column_stack([np.ones(len(x)), is_a.astype(float)])
    kinds = {"groups": document, "use_correction": False}
    fit = api.OLS(x, design).fit(cov_type="cluster", cov_kwds=kinds)
    return fit.params, fit.cov_params()


def residual_maker(sizes):
    """I − H of a mean over tokens, its documents' indicator `[tokens, documents]`, and 1/n."""
    n, document = sum(sizes), np.repeat(np.arange(len(sizes)), sizes)
    indicator = (document[:, None] == np.arange(len(sizes))).astype(float)
    return np.eye(n) - np.full((n, n), 1 / n), indicator


def unbiased_share(sizes):
    """E Σ_d r_d² / n² over the variance of the mean, if tokens of a document are one value."""
    maker, indicator = residual_maker(sizes)
    total = indicator.T @ maker @ indicator  # residual sums of documents from documents' values
    weights = np.asarray(sizes) / sum(sizes)
    return (total**2).sum() / sum(sizes) ** 2 / (weights**2).sum()


def bell_mccaffrey(*sides):
    """Degrees of freedom of Σ_d r_d² / n² for independent tokens, by matrices over all tokens."""
    products = [i.T @ m @ i for m, i in map(residual_maker, sides)]
    total = sum(p / np.trace(p) for p in products)
    return np.trace(total) ** 2 / (total**2).sum()


# ---- against an independent implementation ---------------------------------------------------


SIZES = [[5, 5, 5, 5], [1, 2, 3, 30], [9, 1, 1, 1, 1, 4], [7, 12]]


@pytest.mark.parametrize("sizes", SIZES)
def test_the_correction_is_that_of_matrices_over_all_tokens(sizes):
    n = np.array(sizes, float)
    factor, df = small_sample(n.sum(), (n**2).sum(), (n**3).sum())
    assert factor == pytest.approx(1 / unbiased_share(sizes))
    assert df == pytest.approx(bell_mccaffrey(sizes))
    if len(set(sizes)) == 1:
        assert (factor, df) == pytest.approx((len(n) / (len(n) - 1), len(n) - 1))
    else:  # for independent tokens the variance is too large rather than too small
        assert factor > 1 / (1 - ((n / n.sum()) ** 2).sum())
    assert np.isnan(small_sample(8.0, 64.0, 512.0)).all()


def test_degrees_of_freedom_of_a_difference_are_those_of_matrices():
    sizes = [[1, 2, 3, 30], [9, 1, 4, 2]]
    codes = np.repeat([0, 1], [36, 16])
    document = np.concatenate([np.repeat(np.arange(4), n) for n in sizes])
    leaf = sums(codes, document, np.random.default_rng(0).normal(size=52))
    found = contrast(leaf, *sides(leaf, "a", "b"))
    alike = found._replace(variance_a=np.float64(1), variance_b=np.float64(1), covariance=0.0)
    assert clustered_test(alike).df == pytest.approx(bell_mccaffrey(*sizes))
    swapped = contrast(leaf, *sides(leaf, "b", "a"))
    assert swapped.overlap == pytest.approx(found.overlap)


@pytest.mark.parametrize("shared", [True, False])
def test_variances_equal_cluster_robust_least_squares(shared):
    codes, document, x = tokens(shared=shared)
    leaf = sums(codes, document, x)
    found = contrast(leaf, *sides(leaf, "a", "b"))
    keep = np.isin(codes, [0, 1]) & ~np.isnan(x)
    params, cov = robust(x[keep], codes[keep] == 0, document[keep])
    sizes = [np.unique(document[keep & (codes == i)], return_counts=True)[1] for i in (0, 1)]
    factor = {side: 1 / unbiased_share(n) for side, n in zip("ab", sizes, strict=True)}
    assert found.mean_b == pytest.approx(params[0])
    assert found.mean_a - found.mean_b == pytest.approx(params[1])
    assert found.variance_b == pytest.approx(cov[0, 0] * factor["b"])
    # var(b + difference) is the variance of the other mean, and so on for the covariance.
    raw_a = cov[0, 0] + cov[1, 1] + 2 * cov[0, 1]
    assert found.variance_a == pytest.approx(raw_a * factor["a"])
    expected = (cov[0, 0] + cov[0, 1]) * np.sqrt(factor["a"] * factor["b"])
    assert found.covariance == pytest.approx(expected, abs=1e-12)
    if not shared:
        assert found.covariance == found.both == 0


def test_several_groups_pool_to_what_the_rows_give():
    codes, document, x = tokens(tail=(3,))
    leaf = sums(codes, document, x)
    found = contrast(leaf, *sides(leaf, "ab", "c"))
    pooled = np.where(codes == 1, 0, codes)
    again = sums(pooled, document, x)
    whole = contrast(again, *sides(again, "a", "c"))
    for name in ("n_a", "mean_a", "variance_a", "covariance", "df_a", "documents_b"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9)


def test_three_pooled_groups_err_to_the_cautious_side():
    codes, document, x = tokens(2000, 15)
    codes = np.where(codes < 0, 3, codes)
    leaf = Parting.of(codes, [*GROUPS, ("d",)], document).sums(x, ("kind",)).closed()
    found = contrast(leaf, *sides(leaf, "abc", "d"))
    again = sums(np.where(codes < 3, 0, 1), document, x)
    whole = contrast(again, *sides(again, "a", "b"))
    assert 1 <= found.variance_a / whole.variance_a < 1.01
    assert found.df_a == pytest.approx(whole.df_a, rel=0.02)
    assert found.overlap >= whole.overlap


def test_documents_as_tokens_give_welch_and_pairs_give_the_paired_test():
    random = np.random.default_rng(1)
    x = random.normal(size=40)
    codes = np.repeat([0, 1], [15, 25])
    leaf = sums(codes, np.arange(40), x)
    test = clustered_test(contrast(leaf, *sides(leaf, "a", "b")))
    welch = stats.ttest_ind(x[:15], x[15:], equal_var=False)
    assert (test.t, test.p, test.df) == pytest.approx((welch.statistic, welch.pvalue, welch.df))
    leaf = sums(np.repeat([0, 1], 20), np.tile(np.arange(20), 2), x)
    found = contrast(leaf, *sides(leaf, "a", "b"))
    test = clustered_test(found)
    paired = stats.ttest_rel(x[:20], x[20:])
    assert test.t == pytest.approx(paired.statistic)
    assert (test.df, test.p) == pytest.approx((19, paired.pvalue))
    half = clustered_bands(found, test, 0.9)["mean_a"]
    band = stats.t.interval(0.9, 19, x[:20].mean(), stats.sem(x[:20]))
    assert (found.mean_a - half, found.mean_a + half) == pytest.approx(band)


# ---- calibration -----------------------------------------------------------------------------


KINDS = ("equal", "log-normal", "ragged")
DESIGNS = ("apart", "half", "shares")
EFFECTS = ("own", "shared", "none")


def sizes_of(kind, documents, random):
    """Tokens per document: all alike, log-normal (σ = 1), or Pareto with exponent 1.2."""
    if kind == "equal":
        return np.full(documents, 30)
    draw = (
        random.lognormal(0, 1, documents) if kind == "log-normal" else random.pareto(1.2, documents)
    )
    return np.maximum(4, 30 * draw).astype(np.int64)


def null_means(kind, documents, design, effect, skewed, random):
    """Tokens per group and document `[2, d]`, and their means `[2, d, RUNS]`, in which the groups
    mean nothing."""
    n = sizes_of(kind, documents, random)
    if design == "apart":
        in_a = np.where(np.arange(documents) % 2 == 0, n, 0)
    else:
        in_a = random.binomial(n, random.beta(1, 1, documents) if design == "shares" else 0.5)
    counts = np.stack([in_a, n - in_a]).astype(float)
    draw = random.lognormal if skewed else random.normal
    effects = draw(size=(2, documents, RUNS)) * (effect != "none")
    if effect == "shared":
        effects[1] = effects[0]
    noise = random.normal(size=effects.shape)
    return counts, effects + noise / np.sqrt(np.maximum(counts, 1))[..., None]


def plain_p(counts, means):
    """p with D / (D − 1) for every variance and D − 1 in every degree of freedom."""
    h = counts / counts.sum(axis=1, keepdims=True)
    mean = (h[..., None] * means).sum(axis=1)
    u = h[..., None] * (means - mean[:, None])
    d = (counts > 0).sum(axis=1)
    v_a, v_b = (u**2).sum(axis=1) * (d / (d - 1))[:, None]
    variance = v_a + v_b - 2 * np.sqrt(np.prod(d / (d - 1))) * (u[0] * u[1]).sum(axis=0)
    df = (v_a + v_b) ** 2 / (v_a**2 / (d[0] - 1) + v_b**2 / (d[1] - 1))
    df = np.minimum(df, (counts > 0).any(axis=0).sum() - 1)
    return 2 * stats.t.sf(np.abs(mean[0] - mean[1]) / np.sqrt(variance), df)


def false_alarms(kind, documents, design, effect, *, skewed=False, corpora=CORPORA):
    """Rates at 5 % over corpora: of the test, and without its correction for unequal documents."""
    known = [KINDS.index(kind), documents, DESIGNS.index(design), EFFECTS.index(effect), skewed]
    random, rates = np.random.default_rng(known), []
    while len(rates) < corpora:
        counts, values = null_means(kind, documents, design, effect, skewed, random)
        if (counts > 0).sum(axis=1).min() < 2:
            continue
        group, document = np.nonzero(counts)
        n = np.repeat(counts[group, document][:, None], RUNS, axis=1)
        total = n * values[group, document]
        leaf = DocumentSums((("a",), ("b",)), ("kind",), group, document, n, total).closed()
        test = clustered_test(contrast(leaf, *sides(leaf, "a", "b")))
        rates.append([(p < 0.05).mean() for p in (test.p, plain_p(counts, values))])
    return np.mean(rates, axis=0)


@pytest.mark.parametrize("effect", EFFECTS)
@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_more_false_alarms_than_promised_whatever_the_sizes(kind, design, effect):
    for documents in (10, 20, 40, 100) if FULL else (10, 40):
        for skewed in (False, True) if FULL else (False,):
            rate, plain = false_alarms(kind, documents, design, effect, skewed=skewed)
            where = f"{documents} documents, skewed={skewed}: {rate:.3f}, uncorrected {plain:.3f}"
            assert rate < 0.075, where
            if kind == "equal":
                assert rate > 0.02, where
                assert abs(rate - plain) < 0.02, where
            elif kind == "ragged" and effect != "none":
                assert plain > rate + 0.03, where


def test_tokens_taken_as_independent_give_false_alarms():
    """What the documents have in common makes Welch's test over tokens cry wolf."""
    runs, documents, each = 2000, 40, 12
    random = np.random.default_rng(7)
    document = np.repeat(np.arange(documents), each)
    codes = document % 2
    x = random.normal(size=(documents, runs))[document] + random.normal(size=(480, runs))
    leaf = sums(codes, document, x)
    rate = (clustered_test(contrast(leaf, *sides(leaf, "a", "b"))).p < 0.05).mean()
    moments = [
        (len(y), y.mean(axis=0), y.var(axis=0) * len(y)) for y in (x[codes == 0], x[codes == 1])
    ]
    naive = (welch_from_moments(*moments[0], *moments[1]).p < 0.05).mean()
    low, high = stats.binom.interval(0.999, runs, 0.05)
    assert low <= rate * runs <= high
    assert naive > 0.2


def test_an_effect_is_found_in_ragged_documents():
    """The correction costs power only where a few documents hold most of the tokens."""
    found = {}
    for kind in KINDS:
        random, hits = np.random.default_rng(4), []
        for _ in range(20):
            counts, values = null_means(kind, 40, "half", "own", False, random)
            values[0] += 1.5
            group, document = np.nonzero(counts)
            n = np.repeat(counts[group, document][:, None], RUNS, axis=1)
            total = n * values[group, document]
            leaf = DocumentSums((("a",), ("b",)), ("kind",), group, document, n, total).closed()
            hits.append((clustered_test(contrast(leaf, *sides(leaf, "a", "b"))).p < 0.05).mean())
        found[kind] = np.mean(hits)
    assert found["equal"] > 0.99
    assert found["log-normal"] > 0.8


# ---- merging ---------------------------------------------------------------------------------


def close(a: Clustered, b: Clustered):
    assert (a.keys, a.whole) == (b.keys, b.whole)
    for name, array in a.arrays().items():
        if name not in ("keys", "labels"):
            np.testing.assert_allclose(array, b.arrays()[name], rtol=1e-9, atol=1e-7, err_msg=name)


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.booleans())
def test_merging_parts_by_document_gives_the_whole(seed, n_parts, shared):
    codes, document, x = tokens(80, 9, shared=shared, seed=seed, tail=(2,))
    part = np.random.default_rng(seed).integers(n_parts, size=9)[document]
    pieces = [sums(codes[part == i], document[part == i], x[part == i]) for i in range(n_parts)]
    whole = sums(codes, document, x)
    merged, other_way = pieces[0], pieces[-1]
    for piece in pieces[1:]:
        merged = merged.merge(piece)
    for piece in pieces[-2::-1]:
        other_way = piece.merge(other_way)
    close(merged, whole)
    close(other_way, whole)


def test_a_document_in_pieces_is_one_document():
    codes, document, x = tokens(tail=(2,))
    half = np.random.default_rng(3).random(len(x)) < 0.5
    first, second = (
        Parting.of(codes[h], GROUPS, document[h]).sums(x[h], ("kind",)) for h in (half, ~half)
    )
    again = DocumentSums.from_arrays(first.merge(second).arrays())
    close(again.closed(), sums(codes, document, x))
    apart = first.closed().merge(second.closed())  # what it would be if it were two
    assert (apart.documents > again.closed().documents).any()


def test_a_large_mean_does_not_swallow_the_spread():
    codes, document, x = tokens()
    plain, far = sums(codes, document, x), sums(codes, document, x + 1e7)
    np.testing.assert_allclose(far.merge(far).se, plain.merge(plain).se, rtol=1e-5)


def test_round_trips_and_what_is_empty():
    leaf = sums(*tokens())
    again = Clustered.from_arrays(leaf.arrays())
    close(again, leaf)
    assert again.labels == ("kind",)
    nothing = sums(np.full(4, -1), np.arange(4), np.ones(4))
    close(nothing.merge(leaf), leaf)
    close(Clustered.from_arrays(nothing.arrays()).merge(nothing), nothing)


def test_sums_saved_without_cubes_are_read_and_err_to_the_cautious_side():
    leaf = sums(*tokens())
    arrays = leaf.arrays()
    del arrays["left_sizes"], arrays["right_sizes"]
    old = Clustered.from_arrays(arrays)
    assert (old.se > leaf.se).all()
    assert (old.se < 1.7 * leaf.se).all()
    found = [clustered_test(contrast(x, *sides(x, "a", "b"))) for x in (old, leaf)]
    assert found[0].p > found[1].p


def test_too_many_pairs_are_not_kept_whatever_the_order(monkeypatch):
    monkeypatch.setattr(clustered, "MOST_PAIRS", 2)
    codes, document, x = tokens(60, 6)
    one = sums(codes, document, x)  # three pairs in all
    assert not one.whole
    few = sums(codes % 2, document, x)
    assert few.whole
    for merged in (one.merge(few), few.merge(one)):
        assert not merged.whole
        assert (merged.pairs[:, 0] == merged.pairs[:, 1]).all()
        assert merged.nbytes() < 2000
        found = contrast(merged, *sides(merged, "a", "b"))
        assert np.isfinite(found.variance_a)
        assert np.isnan(found.covariance)
        assert np.isnan(clustered_test(found).p)


# ---- in runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both(gpt2):
    labels = {"kind": ["x", "y"] * 10, "side": ["l", "l", "r", "r"] * 5}
    token_labels = {"half": [["f", "s"] * (len(t.split()) // 2 + 2) for t in TEXTS]}
    token_labels["half"] = [
        cells[: len(gpt2.to_tokens(text)[0])]
        for cells, text in zip(token_labels["half"], TEXTS, strict=True)
    ]
    given = {"labels": labels, "token_labels": token_labels, "progress": False, "max_tokens": 64}
    chosen = (Rotation, Attention)
    by = ["kind", "side", "half"]
    rows = interp.run(gpt2, TEXTS, chosen, **given)
    return rows, interp.run(gpt2, TEXTS, chosen, keep="summary", by=by, **given)


@pytest.mark.parametrize(("between", "a", "b"), [("kind", "x", "y"), ("half", "f", "s")])
def test_a_summary_compares_as_its_rows_do(both, between, a, b):
    rows, kept = both
    found = interp.compare(kept["rotation"], "angle", between, a, b).frame
    whole = interp.compare(rows["rotation"], "angle", between, a, b, resamples=200).frame
    for name in ("n_a", "mean_a", "difference", "clustered_t", "clustered_df", "clustered_p"):
        np.testing.assert_allclose(found[name], whole[name], rtol=1e-4)
    # The bootstrap of the rows says the same, as closely as 20 prompts allow.
    width = (found["difference_high"] - found["difference_low"]).mean()
    expected = (whole["difference_high"] - whole["difference_low"]).mean()
    assert 0.6 < width / expected < 1.6


def test_figures_of_a_summary_have_the_band_of_the_rows(both):
    rows, kept = both
    frame = rows["rotation"].frame
    frame = frame[~frame["special"]]
    by = ["kind", "side", "half"]
    a = means(kept["rotation"].frame, ["angle"], "layer", by)
    b = means(frame, ["angle"], "layer", by)
    pd.testing.assert_frame_equal(
        a.drop(columns="undefined"), b.drop(columns="undefined"),
        check_dtype=False, check_like=True, rtol=1e-4,
    )  # fmt: skip
    pooled = means(kept["rotation"].frame, ["angle"], "layer", ["kind"])
    assert pooled["low"].isna().all()
    heads = means(kept["attention"].frame, ["entropy"], "layer", by)
    exact = means(rows["attention"].frame.query("~special"), ["entropy"], "layer", by)
    np.testing.assert_allclose(heads["mean"], exact["mean"], rtol=1e-4)
    assert (heads["high"] >= exact["high"] - 1e-6).all()


def test_what_has_no_sums_says_why(both):
    _, kept = both
    bare = interp.compare(kept["rotation"].frame, "angle", "kind", "x", "y")
    assert bare.frame["clustered_p"].isna().all()
    assert any(note.startswith("no sums over documents here") for note in bare.notes)
    assert bare.test == "welch"
    pooled = interp.compare(kept["attention"], "entropy", "kind", "x", "y", by="layer")
    assert any(note.startswith("heads or layers were pooled") for note in pooled.notes)


@pytest.mark.parametrize("hold", [0, 1 << 26])
def test_documents_in_several_chunks_and_batches_are_one_each(gpt2, tmp_path, monkeypatch, hold):
    monkeypatch.setattr(shard, "_HOLD", hold)  # 0 groups the rows of every batch by themselves
    texts = [{"text": " ".join([t] * 12), "kind": "xy"[i % 2]} for i, t in enumerate(TEXTS)]
    options = {"max_tokens": 128, "shard_documents": 6, "progress": False}
    done = interp.run_corpus(gpt2, texts, Rotation, out=tmp_path / "s", by=["kind"], **options)
    assert done.chunks > done.documents
    rows = interp.run_corpus(
        gpt2, texts, Rotation, out=tmp_path / "t", keep="tokens", labels=["kind"], **options
    ).open()["rotation"]
    found = interp.compare(done.open()["rotation"], "angle", "kind", "x", "y")
    whole = interp.compare(rows, "angle", "kind", "x", "y", null="none", resamples=50)
    assert found.frame["prompts_a"].eq(10).all()
    for name in ("n_a", "clustered_t", "clustered_df", "clustered_p"):
        np.testing.assert_allclose(found.frame[name], whole.frame[name], rtol=1e-4)
