"""Every analysis on a real model, against plain transformers and formulas written out in float64.

The library computes in float32: a state there is about 1e-6 of its norm away from the reference,
and first tokens, whose norm is a hundred times the others', are as close relative to that norm.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special, stats

import interp
from interp.contract.registry import registered, with_parameters

CHOSEN = (0, 1, 14, 29, 30)  # states read out to the whole vocabulary

pytestmark = pytest.mark.real


def column(frame, name, prompt, layer=None, head=None):
    """One column of one prompt (and layer and head) in the order of positions."""
    rows = frame[frame["prompt"] == prompt]
    if layer is not None:
        rows = rows[rows["layer"] == layer]
    if head is not None:
        rows = rows[rows["head"] == head]
    return rows.sort_values("position")[name].to_numpy(np.float64)


def degrees(a, b):
    """Angles of vectors, by the half-angle formula in float64."""
    u, v = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
    chord, rest = np.linalg.norm(u - v, axis=-1), np.linalg.norm(u + v, axis=-1)
    return np.degrees(2 * np.arctan2(chord, rest))


def blocks(plain):
    """Prompt, block and the states around it."""
    for i, one in enumerate(plain):
        for layer in range(len(one.stream) - 1):
            yield i, one, layer, one.stream[layer], one.stream[layer + 1]


def close(found, wanted, rtol=2e-4, atol=1e-4, **options):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=atol, **options)


COVERED = {
    *("norm", "rotation", "path_length", "trajectory", "random_pairs", "attention", "next_token"),
    *("logit_lens", "layer_similarity", "position_profile", "prediction_geometry", "embedding"),
    *("unembedding", "unembedding_spectrum", "positions"),
}

# Compared with float64 on small models and certified by phantoms, not on the real one.
SMALL_ONLY = {
    *("token_curvature", "massive_activations", "spectrum", "intrinsic_dimension", "settling"),
    *("mean_position_context", "logit_difference", "logit_attribution", "head_attribution"),
}


def test_every_built_in_analysis_is_measured_here_or_named():
    found = registered().items()
    built_in = {name for name, (entry, *_) in found if entry.value.startswith("analyses.")}
    assert built_in == COVERED | SMALL_ONLY
    assert not COVERED & SMALL_ONLY


def test_tokens_are_those_of_the_plain_tokenizer(english, reference):
    for text, ids in zip(english.texts, english.tokens, strict=True):
        plain = reference.tokenizer(text)["input_ids"]
        bos = [reference.tokenizer.bos_token_id]
        assert ids.tolist() in (plain, bos + plain)


# --- along the stream -------------------------------------------------------------------------


def test_norm(real_results, plain):
    for i, _, layer, _, after in blocks(plain):
        close(column(real_results["norm"].frame, "norm", i, layer), np.linalg.norm(after, axis=1))


def test_rotation(real_results, plain):
    frame = real_results["rotation"].frame
    for i, one, layer, before, after in blocks(plain):
        middle = before + one.attn[layer]
        # A degree is 0.017: rounding of a state by 1e-6 of its norm turns it by 6e-5 degrees.
        for name, pair in (
            ("angle", (before, after)),
            ("attn_angle", (before, middle)),
            ("mlp_angle", (middle, after)),
        ):
            close(column(frame, name, i, layer), degrees(*pair), atol=5e-3, err_msg=name)
        so_far = degrees(one.stream[: layer + 1], one.stream[1 : layer + 2]).sum(axis=0)
        close(column(frame, "angular_path", i, layer), so_far, atol=2e-2)
        turning = column(frame, "turning", i, layer)
        if layer + 2 < len(one.stream):
            close(turning, degrees(after - before, one.stream[layer + 2] - after), atol=5e-2)
        else:
            assert np.isnan(turning).all()


def test_path_length(real_results, plain):
    frame = real_results["path_length"].frame
    for i, one, layer, before, after in blocks(plain):
        step, attn, mlp = after - before, one.attn[layer], one.mlp[layer]
        size = np.linalg.norm(step, axis=1)
        steps = np.linalg.norm(np.diff(one.stream[: layer + 2], axis=0), axis=2)
        chord = np.linalg.norm(after - one.stream[0], axis=1)
        unit = before / np.linalg.norm(before, axis=1, keepdims=True)
        along = (attn * unit).sum(1)
        wanted = {
            "norm": np.linalg.norm(before, axis=1),
            "norm_after": np.linalg.norm(after, axis=1),
            "step": size,
            "relative_step": size / np.linalg.norm(before, axis=1),
            "path": steps.sum(axis=0),
            "chord": chord,
            "tortuosity": steps.sum(axis=0) / chord,
            "attn_norm": np.linalg.norm(attn, axis=1),
            "mlp_norm": np.linalg.norm(mlp, axis=1),
            "attn_share": (attn * step).sum(1) / size**2,
            "mlp_share": (mlp * step).sum(1) / size**2,
            "attn_stretch": along,
            "attn_turn": np.linalg.norm(attn - along[:, None] * unit, axis=1),
        }
        lengths = wanted["attn_norm"] * wanted["mlp_norm"]
        wanted["attn_mlp_cos"] = (attn * mlp).sum(1) / lengths
        for name, values in wanted.items():
            scale = np.abs(values).max()
            close(column(frame, name, i, layer), values, 5e-4, 2e-4 * scale, err_msg=name)
        assert (column(frame, "closing_error", i, layer) < 1e-5).all()


def test_trajectory(real_results, plain, english):
    frame = real_results["trajectory"].frame
    kept = [~left for left in english.left_out]
    flat = np.concatenate(
        [o.stream[:, k].reshape(-1, 576) for o, k in zip(plain, kept, strict=True)]
    )
    mean = flat.mean(axis=0)
    values, axes = np.linalg.eigh(np.cov(flat.T))
    values, axes = values[::-1], axes[:, ::-1]
    assert frame["basis_states"].iloc[0] == len(flat)
    close(frame["pc1_share"].iloc[0], values[0] / values.sum())
    close(frame["effective_dimension"].iloc[0], values.sum() ** 2 / (values**2).sum(), 1e-3)
    for i, one in enumerate(plain[:2]):
        for layer in CHOSEN:
            for j in range(3):
                found = column(frame, f"pc{j + 1}", i, layer)
                wanted = (one.stream[layer] - mean) @ axes[:, j]
                sign = np.sign((found * wanted).sum())
                # Of the first token, whose norm is in the thousands, the last digits are rounding.
                close(found, sign * wanted, 2e-3, 2e-3 * np.abs(wanted).max())


def test_random_pairs(real_results, plain, english):
    """Every pair is one of the angles between tokens of those prompts, without special ones."""
    frame = real_results["random_pairs"].frame
    kept = [np.flatnonzero(~left) for left in english.left_out]
    own = frame[frame["kind"] == "same layer"]
    for layer in (0, 14, 29):
        rows = own[own["layer"] == layer]
        assert len(rows) > 100
        for row in rows.head(25).itertuples():
            a = plain[row.prompt_a].stream[layer + 1][kept[row.prompt_a]]
            b = plain[row.prompt_b].stream[layer + 1][kept[row.prompt_b]]
            angles = degrees(a[:, None], b[None])
            assert np.abs(angles - row.angle).min() < 1e-2
        states = np.concatenate([o.stream[layer + 1][k] for o, k in zip(plain, kept, strict=True)])
        every = degrees(states[:, None], states[None])[~np.eye(len(states), dtype=bool)]
        assert abs(rows["angle"].mean() - every.mean()) < 5 * every.std() / np.sqrt(len(rows))


# --- attention --------------------------------------------------------------------------------


def statistics_of(pattern, ids):
    """Statistics of one head's pattern `[n, n]`, in loops over queries and keys."""
    n = len(ids)
    out = {name: np.full(n, np.nan) for name in ("previous", "duplicate", "induction")}
    q, k = np.arange(n)[:, None], np.arange(n)[None]
    out["entropy"] = special.entr(pattern).sum(1)
    out["distance"] = (pattern * (q - k)).sum(1)
    out["abs_distance"] = (pattern * np.abs(q - k)).sum(1)
    out["sink"] = pattern[:, 0]
    out["row_sum"] = pattern.sum(1)
    for i in range(n):
        copies = [j for j in range(i) if ids[j] == ids[i]]
        if i:
            out["previous"][i] = pattern[i, i - 1]
        if copies:
            out["duplicate"][i] = pattern[i, copies].sum()
            out["induction"][i] = pattern[i, [j + 1 for j in copies]].sum()
    return out


def test_attention(real_results, plain):
    frame = real_results["attention"].frame
    cells = frame.sort_values("position").groupby(["prompt", "layer", "head"])
    for i, one in enumerate(plain):
        for layer in (0, 5, 17, 29):
            for head in range(one.patterns.shape[1]):
                rows = cells.get_group((i, layer, head))
                for name, wanted in statistics_of(one.patterns[layer, head], one.ids).items():
                    close(rows[name], wanted, 1e-3, 1e-4, err_msg=f"{name} {i} {layer} {head}")
    repeated = frame[frame["prompt"] == 4]
    assert repeated["induction"].notna().any()


def test_position_profile(real_results, plain, english):
    """Mean pattern per offset, and the share of the variance between pairs that offsets explain."""
    frame = real_results["position_profile"].frame
    for layer, head in ((0, 0), (3, 4), (20, 8)):
        rows = frame[(frame["layer"] == layer) & (frame["head"] == head)].set_index("offset")
        offsets, values = [], []
        for one, left in zip(plain, english.left_out, strict=True):
            own = np.flatnonzero(~left)
            for q in own:
                for k in own[own <= q]:
                    offsets.append(q - k)
                    values.append(one.patterns[layer, head, q, k])
        offsets, values = np.array(offsets), np.array(values)
        between = 0.0
        for offset in np.unique(offsets):
            here = values[offsets == offset]
            assert rows.loc[offset, "pairs"] == len(here)
            close(rows.loc[offset, "pattern"], here.mean())
            close(rows.loc[offset, "pattern_std"], here.std(), 2e-3)
            between += len(here) * (here.mean() - values.mean()) ** 2
        share = between / ((values - values.mean()) ** 2).sum()
        close(rows["pattern_share"].iloc[0], share, 1e-3)


# --- predictions ------------------------------------------------------------------------------


def test_next_token(real_results, plain):
    frame = real_results["next_token"].frame
    for i, one in enumerate(plain):
        log_p = special.log_softmax(one.logits, axis=1)
        targets = np.array([*one.ids[1:], 0])
        at = np.arange(len(targets))
        logit = one.logits[at, targets]
        wanted = {"logit": logit, "log_prob": log_p[at, targets]}
        wanted["rank"] = (one.logits > logit[:, None]).sum(1).astype(float)
        for values in wanted.values():
            values[-1] = np.nan
        wanted["entropy"] = special.entr(np.exp(log_p)).sum(1)
        wanted["top_prob"] = np.exp(log_p.max(1))
        for name, values in wanted.items():
            # A rank among 49,152 logits may move by one or two where they are nearly equal.
            close(column(frame, name, i), values, 1e-3, 2e-3 if name != "rank" else 3)


def test_logit_lens(real_results, plain, reference):
    frame = real_results["logit_lens"].frame
    states = sorted(frame["layer"].unique())
    assert len(states) == 31
    tokenizer = reference.tokenizer
    for i, one in enumerate(plain[:3]):
        final = special.log_softmax(one.logits, axis=1)
        p = np.exp(final)
        targets, at = np.array([*one.ids[1:], 0]), np.arange(len(one.ids))
        for number in CHOSEN:
            log_q = special.log_softmax(reference.lens(one.stream[number]), axis=1)
            q = np.exp(log_q)
            middle = np.log((p + q) / 2)
            js = (special.rel_entr(p, np.exp(middle)) + special.rel_entr(q, np.exp(middle))).sum(
                1
            ) / 2
            wanted = {
                "log_prob": np.where(at < len(at) - 1, log_q[at, targets], np.nan),
                "entropy": special.entr(q).sum(1),
                "kl_to_final": (p * (final - log_q)).sum(1),
                "js_to_final": js,
                "tv_to_final": np.abs(p - q).sum(1) / 2,
                "top_prob": q.max(1),
            }
            layer = states[number]
            for name, values in wanted.items():
                found = column(frame, name, i, layer)
                close(found, values, 2e-3, 3e-3, err_msg=f"{name} at {number}")
            rows = frame[(frame["prompt"] == i) & (frame["layer"] == layer)]
            tops = rows.sort_values("position")["top_token"].tolist()
            clear = np.diff(np.sort(q, axis=1)[:, -2:], axis=1)[:, 0] > 1e-3
            for k in np.flatnonzero(clear):
                assert tops[k].strip() == tokenizer.decode([int(q[k].argmax())]).strip()


def test_prediction_geometry(smollm2, english, reference):
    one = interp.read_prompts([english.texts[0]], smollm2.tokenizer, prepend_bos=False)
    asked = interp.run(smollm2, one, ["prediction_geometry"], progress=False)
    frame, run = asked["prediction_geometry"].frame, reference(one.tokens[0])
    weight = reference.unembedding
    sizes = np.linalg.norm(weight, axis=1)
    _, directions = np.linalg.eigh(weight.T @ weight)
    directions = directions[:, ::-1]
    norm = reference.model.model.norm
    targets = np.array(run.ids[1:])
    states = sorted(frame["layer"].unique())
    for number in (0, 14, 30):
        x = run.stream[number][:-1]
        scale = np.sqrt((x**2).mean(1, keepdims=True) + norm.variance_epsilon)
        h = x / scale * norm.weight.detach().numpy()
        z = h @ weight.T
        p = special.softmax(z, axis=1)
        length = np.linalg.norm(h, axis=1)
        cosine = z / (length[:, None] * sizes)
        best = np.argsort(-z, axis=1, kind="stable")[:, :20]
        top = np.take_along_axis(z, best, 1)
        slope = p @ weight - weight[targets]
        n, c = sizes[best], np.take_along_axis(cosine, best, 1)
        part = length[:, None] * (c - c.mean(1, keepdims=True)) * (n + n.mean(1, keepdims=True)) / 2
        centred = top - top.mean(1, keepdims=True)
        part = part - part.mean(1, keepdims=True)
        bands = (h @ directions).reshape(len(h), 4, -1)
        wanted = {
            "h_norm": length,
            "top_cosine": c[:, 0],
            "cosine_share": (part * centred).sum(1) / (centred**2).sum(1),
            "gradient_norm": np.linalg.norm(slope, axis=1),
            "gradient_angle": degrees(slope, h),
            **{f"h_share_{j + 1}": (bands[:, j] ** 2).sum(1) / length**2 for j in range(4)},
        }
        kept = h @ directions[:, :288] @ directions[:, :288].T
        log_q = special.log_softmax(kept @ weight.T, axis=1)
        wanted["kl_top_2"] = (p * (np.log(p) - log_q)).sum(1)
        for name, values in wanted.items():
            found = column(frame, name, 0, states[number])[:-1]
            close(found, values, 5e-3, 5e-3 * np.abs(values).max(), err_msg=f"{name} at {number}")


# --- layers and weights -----------------------------------------------------------------------


def unbiased_hsic(k, m):
    """The U-statistic of Song et al. for two kernel matrices `[n, n]`."""
    n = len(k)
    k, m = (x - np.diag(np.diag(x)) for x in (k, m))
    total = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2))
    return (total - 2 / (n - 2) * (k.sum(0) * m.sum(0)).sum()) / (n * (n - 3))


def test_layer_similarity(real_results, plain, english):
    frame = real_results["layer_similarity"].frame
    kept = [~left for left in english.left_out]
    states = np.concatenate([o.stream[:, k] for o, k in zip(plain, kept, strict=True)], axis=1)
    kernels = {s: states[s] @ states[s].T for s in CHOSEN}
    pairs = frame.set_index(["layer_a", "layer_b"])
    for a in CHOSEN:
        for b in CHOSEN:
            if a < b:
                own = unbiased_hsic(kernels[a], kernels[a]) * unbiased_hsic(kernels[b], kernels[b])
                wanted = unbiased_hsic(kernels[a], kernels[b]) / np.sqrt(own)
                close(pairs.loc[(a, b), "cka"], wanted, 2e-3, 2e-3)
    assert pairs["tokens"].iloc[0] == states.shape[1]


@pytest.fixture(scope="module")
def weights(smollm2):
    names = ["embedding", "unembedding", "unembedding_spectrum"]
    names = with_parameters(names, ["embedding.draws=0"])  # the control is measured elsewhere
    return interp.run(smollm2, None, names, progress=False)


def test_embedding(weights, reference):
    frame = weights["embedding"].frame
    e = reference.model.model.embed_tokens.weight.detach().numpy()
    centred = e - e.mean(axis=0)
    values = np.linalg.eigvalsh(centred.T @ centred / len(e))[::-1]
    close(frame["eigenvalue"], values, 1e-4, 1e-6 * values[0])
    share, sigma = values / values.sum(), np.sqrt(values) / np.sqrt(values).sum()
    first = frame.iloc[0]
    close(first["effective_rank"], np.exp(special.entr(sigma).sum()))
    close(first["entropy_dimension"], np.exp(special.entr(share).sum()))
    close(first["participation_ratio"], values.sum() ** 2 / (values**2).sum())
    unit = e / np.linalg.norm(e, axis=1, keepdims=True)
    n = len(e)
    mean = (np.linalg.norm(unit.sum(axis=0)) ** 2 - n) / (n * (n - 1))
    close(first["mean_cosine"], mean, 1e-3)
    close(first["norm_mean"], np.linalg.norm(e, axis=1).mean())


def test_unembedding(weights, reference):
    frame = weights["unembedding"].frame.sort_values("vocab_id")
    w = reference.unembedding
    close(frame["norm"], np.linalg.norm(w, axis=1))
    mean = w.mean(axis=0)
    close(frame["mean_cosine"], w @ mean / np.linalg.norm(w, axis=1) / np.linalg.norm(mean))
    assert frame["same"].all()  # tied weights
    close(frame["cosine"], 1.0)
    assert abs(frame["shuffled_cosine"].mean()) < 0.5


def test_unembedding_spectrum(weights, reference):
    frame = weights["unembedding_spectrum"].frame
    for name, w in (
        ("W_U", reference.unembedding),
        ("W_U centred", reference.unembedding - reference.unembedding.mean(axis=0)),
    ):
        rows = frame[frame["matrix"] == name].sort_values("direction")
        values = np.sqrt(np.linalg.eigvalsh(w.T @ w)[::-1].clip(0))
        close(rows["singular_value"], values, 1e-3, 1e-4 * values[0])
        close(rows["share"], values**2 / (values**2).sum(), 2e-3, 1e-6)
        sigma = values / values.sum()
        close(rows["effective_rank"].iloc[0], np.exp(special.entr(sigma).sum()), 1e-3)


def test_positions_are_refused_where_the_model_has_rotary_ones(smollm2):
    with pytest.raises(interp.InterpError, match="W_pos|position"):
        interp.run(smollm2, None, ["positions"], progress=False)


# --- other ways in ----------------------------------------------------------------------------


def test_attached_passes_are_those_of_a_run(smollm2, english, real_results):
    import torch

    with interp.attach(smollm2, "rotation", "next_token") as probes:
        smollm2(torch.tensor(english.tokens[1])[None])
    for name, value in (("rotation", "angle"), ("next_token", "log_prob")):
        run, own = real_results[name].frame, probes[name].frame
        layer = 11 if name == "rotation" else None
        close(column(own, value, 0, layer), column(run, value, 1, layer), 1e-3, 1e-3)


def test_a_corpus_gives_the_means_of_the_rows(smollm2, english, real_results, tmp_path):
    asked = {"prepend_bos": bool(english.special[0][0]), "progress": False}
    run = interp.run_corpus(smollm2, list(english.texts), ["rotation"], out=tmp_path / "c", **asked)
    found = run.open()["rotation"].frame
    rows = real_results["rotation"].frame
    means = rows[~rows["special"].astype(bool)].groupby("layer")["angle"].mean()
    angle = found[found["value"] == "angle"].set_index("layer")["mean"]
    close(angle.sort_index(), means.sort_index(), 1e-3)


def test_an_untrained_copy_is_another_model(smollm2, english, plain):
    """The control has the architecture and not the weights: its angles are not the model's."""
    copy = interp.random_copy(smollm2)
    frame = interp.run(copy, english, ["rotation"], progress=False)["rotation"].frame
    own = [column(frame, "angle", 0, layer)[1:].mean() for layer in range(30)]
    real = degrees(plain[0].stream[:-1], plain[0].stream[1:])[:, 1:].mean(axis=1)
    assert stats.pearsonr(own, real)[0] < 0.9
