"""Experiments on a real model, against plain transformers and formulas written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special, stats

import interp
from interp import experiments
from interp.errors import Unsupported

pytestmark = pytest.mark.real


def close(found, wanted, rtol=1e-3, atol=1e-3, **options):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, **options)


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


# --- on results -------------------------------------------------------------------------------


def test_growth_rate(real_results, plain):
    frame = experiments.growth_rate(real_results).frame
    for i, one in enumerate(plain):
        logs = np.log(np.linalg.norm(one.stream, axis=2))
        slopes = np.polyfit(np.arange(len(logs)), logs, 1)[0]
        close(frame[frame["prompt"] == i].sort_values("position")["growth"], slopes, atol=1e-5)


def test_decision_depth(real_results, plain, reference):
    frame = experiments.decision_depth(real_results).frame
    for i, one in enumerate(plain[:2]):
        tokens = range(3, len(one.ids), 4)
        tops = np.stack([reference.lens(x[list(tokens)]).argmax(1) for x in one.stream])
        final = one.logits[list(tokens)].argmax(1)
        rows = frame[frame["prompt"] == i].set_index("position")
        for k, token in enumerate(tokens):
            agrees = tops[:, k] == final[k]
            depth = len(agrees) - np.argmin(agrees[::-1]) if not agrees.all() else 0
            assert abs(rows.loc[token, "decision_depth"] - depth) <= (0 if agrees[-1] else 1)


def test_head_types(real_results, plain, english):
    frame = experiments.head_types(real_results, resamples=50).frame
    rows = frame.set_index(["layer", "head", "kind"])
    kept = [np.flatnonzero(~left) for left in english.left_out]
    for layer, head in ((2, 3), (12, 0), (28, 8)):
        previous = [
            one.patterns[layer, head][k[k > 0], k[k > 0] - 1]
            for one, k in zip(plain, kept, strict=True)
        ]
        sink = [one.patterns[layer, head][k, 0] for one, k in zip(plain, kept, strict=True)]
        close(rows.loc[(layer, head, "previous"), "score"], np.concatenate(previous).mean())
        close(rows.loc[(layer, head, "sink"), "score"], np.concatenate(sink).mean())
        even = np.concatenate([1 / (k + 1) for k in kept]).mean()
        close(rows.loc[(layer, head, "sink"), "uniform"], even)


def test_rollout(real_results, plain):
    (first, *_) = experiments.rollout_maps(real_results["attention"]).items()
    prompt, found = first
    whole, n = np.eye(len(plain[prompt].ids)), len(plain[prompt].ids)
    for layer, pattern in enumerate(plain[prompt].patterns):
        mixed = 0.5 * np.eye(n) + 0.5 * pattern.mean(axis=0)
        whole = mixed / mixed.sum(1, keepdims=True) @ whole
        close(found[layer], whole, atol=1e-5)


def test_path_prediction(real_results, plain, english):
    """Spearman's coefficient of the whole path, plain and with covariates taken out."""
    found = experiments.path_prediction(
        real_results, outcomes=["log_prob"], partial=["position"], resamples=20
    )
    path, log_prob, position = [], [], []
    for one, left in zip(plain, english.left_out, strict=True):
        steps = np.linalg.norm(np.diff(one.stream, axis=0), axis=2).sum(axis=0)
        told = special.log_softmax(one.logits, axis=1)[np.arange(len(one.ids) - 1), one.ids[1:]]
        keep = np.flatnonzero(~left[:-1])
        path += [*steps[keep]]
        log_prob += [*told[keep]]
        position += [*keep]
    row = found.frame.iloc[-1]
    assert row["n"] == len(path)
    close(row["spearman"], stats.spearmanr(path, log_prob)[0])
    ranks = [stats.rankdata(x) for x in (path, log_prob, position)]
    rest = np.column_stack([np.ones(len(path)), ranks[2]])
    x, y = (r - rest @ np.linalg.lstsq(rest, r, rcond=None)[0] for r in ranks[:2])
    close(row["partial_spearman"], stats.pearsonr(x, y)[0], atol=3e-3)


def test_groups_and_comparison_of_tags_and_frequencies(smollm2, plain, english):
    pytest.importorskip("wordfreq")
    marked = english.label(interp.prompts.word_frequency())
    run = interp.run(smollm2, marked, ["norm"], progress=False)
    found = experiments.by_group(run, "norm", "zipf", level="token", bins=2, resamples=50)
    low = found.frame[found.frame["zipf"] == found.groups[0]].set_index("layer")["mean"]
    zipf = np.concatenate([np.array(c, dtype=float) for c in marked.labels["zipf"]])
    kept = ~np.concatenate(english.left_out) & np.isfinite(zipf)
    norms = np.concatenate([np.linalg.norm(o.stream[8], axis=1) for o in plain])
    below = kept & (zipf <= np.quantile(zipf[kept], 0.5))
    close(low[7], norms[below].mean())


# --- on a model -------------------------------------------------------------------------------


def test_nearest_tokens(smollm2, reference):
    found = experiments.nearest_tokens(smollm2, " king", by="cosine", k=8).frame
    (token,) = reference.tokenizer(" king")["input_ids"]
    w = reference.unembedding
    cosines = w @ w[token] / np.linalg.norm(w, axis=1) / np.linalg.norm(w[token])
    assert found["token_id"].tolist() == np.argsort(-cosines)[:8].tolist()
    close(found["cosine"], np.sort(cosines)[::-1][:8])


def test_steering_is_the_vector_added_by_hand(smollm2, reference):
    texts = ["The capital of France is", "He went to the"]
    bos = interp.inspect(smollm2).prepends_bos
    read = interp.read_prompts(texts, smollm2.tokenizer, prepend_bos=bos)
    direction = np.random.default_rng(0).normal(size=576)
    (target,) = reference.tokenizer(" Paris")["input_ids"]
    found = experiments.dose_response(
        smollm2,
        read,
        torch.tensor(direction, dtype=torch.float32),
        doses=[2.0],
        layers=[12],
        positions="last",
        targets=target,
        controls=2,
        progress=False,
    ).frame
    given = found[found["direction"] == "given"].set_index("dose")
    value = next(c for c in ("measure", "value", "mean") if c in given)
    for dose in (0.0, 2.0):
        told = [_steered(reference, ids, dose * direction, target) for ids in read.tokens]
        close(given.loc[dose, value], np.mean(told), 2e-3)


def _steered(reference, ids, vector, target):
    def add(module, args, out):
        state = (out[0] if isinstance(out, tuple) else out).clone()
        state[:, -1] += torch.tensor(vector)
        return (state, *out[1:]) if isinstance(out, tuple) else state

    # State 12 enters block 12: it leaves block 11.
    hook = reference.blocks[11].register_forward_hook(add)
    try:
        with torch.no_grad():
            logits = reference.model(torch.tensor(ids)[None]).logits[0, -1].numpy()
    finally:
        hook.remove()
    return special.log_softmax(logits)[target]


def test_mean_difference(smollm2, reference):
    a, b = ["The happy child smiled"], ["The angry dog barked", "The sad man wept"]
    found = experiments.mean_difference(smollm2, a, b, 9).numpy()
    bos = interp.inspect(smollm2).prepends_bos
    means = []
    for texts in (a, b):
        read = interp.read_prompts(texts, smollm2.tokenizer, prepend_bos=bos)
        means.append(np.mean([reference(ids).stream[9, -1] for ids in read.tokens], axis=0))
    close(found, means[0] - means[1], atol=1e-3 * np.abs(means[0]).max())


DRIFT = {
    "company": ["Apple sells many computers.", "The shares of Apple rose again."],
    "fruit": ["An apple fell from the tree.", "She ate a green apple slowly."],
}


def test_contextual_drift(smollm2, reference):
    texts = [text for group in DRIFT.values() for text in group]
    senses = [sense for sense, group in DRIFT.items() for _ in group]
    bos = interp.inspect(smollm2).prepends_bos
    read = interp.read_prompts(texts, smollm2.tokenizer, prepend_bos=bos, labels={"sense": senses})
    found = experiments.contextual_drift(smollm2, read, "apple", resamples=20).frame
    vectors = []
    for ids, text in zip(read.tokens, texts, strict=True):
        end = text.lower().index("apple") + 5
        spans = reference.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        last = max(k for k, (a, b) in enumerate(spans) if a < end and b > a and b <= end)
        vectors.append(reference(ids).stream[:, last + len(ids) - len(spans)])
    layers = sorted(found["layer"])
    rows = found.set_index("layer")
    for state in (0, 7, 20, 30):
        x = [v[state] for v in vectors]
        within = np.mean([cosine(x[0], x[1]), cosine(x[2], x[3])])
        between = np.mean([cosine(x[i], x[j]) for i in (0, 1) for j in (2, 3)])
        close(rows.loc[layers[state], "within"], within)
        close(rows.loc[layers[state], "between"], between)


def test_continuation_divergence_of_one_token_is_that_of_the_two_predictions(smollm2, reference):
    a, b = "The capital of France is", "My favourite colour is"
    found = experiments.continuation_divergence(smollm2, a, b, length=1, samples=64).frame.iloc[0]
    bos = interp.inspect(smollm2).prepends_bos
    read = interp.read_prompts([a, b], smollm2.tokenizer, prepend_bos=bos)
    p, q = (special.softmax(reference(ids).logits[-1]) for ids in read.tokens)
    kl, other = special.rel_entr(p, q).sum(), special.rel_entr(q, p).sum()
    js = sum(special.rel_entr(x, (p + q) / 2).sum() for x in (p, q)) / 2
    for name, wanted in (("kl_ab", kl), ("kl_ba", other), ("js", js)):
        assert abs(found[name] - wanted) < 5 * found[f"{name}_se"], name


def test_rotary_positions_move_with_the_text(smollm2):
    found = experiments.shift_test(smollm2, "The king met a farmer there.", shifts=(1, 32)).frame
    assert (found["angle"] < 0.05).all()
    assert (found["pattern_change"].dropna() < 1e-3).all()
    assert (found["between_tokens"] > 5).all()


def test_what_needs_learned_positions_is_refused(smollm2):
    for question in (experiments.split_cosines, experiments.split_scores):
        with pytest.raises(Unsupported):
            question(smollm2, "The king met a farmer there.")


def test_scores_are_split_by_distance(smollm2, reference):
    """The scores whose rows are fitted have the plain pattern as their softmax."""
    text = "The old king met a tall farmer there."
    found = experiments.split_distance(smollm2, text, block=3)
    bos = interp.inspect(smollm2).prepends_bos
    read = interp.read_prompts([text], smollm2.tokenizer, prepend_bos=bos)
    pattern = reference(read.tokens[0]).patterns[3]
    keep = np.flatnonzero(~read.special[0])
    total = found.total[:, -1]
    own = np.log(pattern[:, keep[-1]][:, keep])
    gap = (total[:, -len(keep) :] - own) if total.shape[1] >= len(keep) else total - own
    assert np.nanmax(gap.std(axis=1)) < 1e-2
    parts = sum(found.parts.values())
    allowed = found.allowed
    close(parts[:, allowed], found.total[:, allowed], atol=1e-3)


def test_layers_of_one_model_compared_with_themselves(smollm2, english, plain):
    found = experiments.compare_layers(
        smollm2, smollm2, list(english.texts), method="cka_biased", per_prompt=4, resamples=10
    )
    frame = found.frame.rename(columns=lambda c: {"similarity": "score"}.get(c, c))
    value = next(c for c in ("score", "value", "cka") if c in frame)
    pairs = frame.set_index(["layer_a", "layer_b"])[value]
    states = []
    for row in found.words.itertuples():
        index = english.index()
        own = index[(index["prompt"] == row.prompt) & (index["word"] == row.word)]
        states.append(plain[row.prompt].stream[:, own["position"].max()])
    x = np.stack(states, axis=1)

    def cka(a, b):
        a, b = (v - v.mean(axis=0) for v in (a, b))
        norms = np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)
        return np.linalg.norm(a.T @ b) ** 2 / norms

    for a, b in ((0, 0), (0, 30), (10, 20), (15, 29)):
        close(pairs.loc[(a, b)], cka(x[a], x[b]), 3e-3)
