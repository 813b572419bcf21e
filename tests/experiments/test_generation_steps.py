"""Measures over the steps of a generation: planted drifts, labels, controls, and a real run."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import interp
from interp.errors import BadInput, UnknownName
from interp.experiments import generation_steps
from interp.experiments.generation_steps import RANDOM, SHUFFLED, control_texts
from interp.runs.written import angle_of_sides, step_means, written_values

KINDS = ["next_token", "settling", "path_length", "rotation"]
PROMPTS = ["Mary was tired, so John", "The river", "Leo met", "Anna gave Tom", "A dog saw"]


def planted(seed, *, drift=0.0, apart=0.0, prompts=8, samples=4, steps=10, given=3):
    """Tables as a generation makes them; entropies with a drift, and higher in wrong answers."""
    rng = np.random.default_rng(seed)
    n, length = prompts * samples, given + steps
    wrong = rng.random(n) < 0.5
    index = {"prompt": np.repeat(np.arange(n), length), "position": np.tile(np.arange(length), n)}
    step = np.maximum(index["position"] - given + 1, 0)
    tokens = pd.DataFrame(index | {"generation_step": step, "given": index["prompt"] // samples})
    tokens = tokens.assign(generated=step > 0, sample=index["prompt"] % samples, special=False)
    # What is planted at step s stands at the position before, where its token was chosen.
    chosen = np.maximum(index["position"] - given + 2, 0)
    level = rng.normal(size=prompts)[tokens["given"]] + apart * wrong[tokens["prompt"]]
    noise = rng.normal(size=(2, len(tokens)))
    table = tokens.assign(entropy=level + drift * chosen + noise[0], top_prob=0.5)
    return {"next_token": table.assign(log_prob=noise[1])}, wrong


# ---- the token and the pass that wrote it ------------------------------------------------------


@pytest.fixture(scope="module")
def demo():
    return interp.load_model("demo-llama")


@pytest.fixture(scope="module")
def results(demo):
    return interp.generate(
        demo, PROMPTS, KINDS, max_new_tokens=8, do_sample=True, samples=3, seed=1,
        control="random-init", progress=False,
    )  # fmt: skip


def test_values_stand_with_the_token_that_they_chose(demo, results):
    import torch

    frame = written_values(results)
    for number in (0, 4, 7):
        rows = frame[frame["prompt"] == number]
        ids = torch.tensor(rows["token_id"].tolist())[None]
        _, cache = demo.run_with_cache(ids)
        logits = demo(ids)[0].double().detach()
        log_p = logits.log_softmax(-1)
        states = [
            cache["blocks.0.hook_in"],
            *(cache[f"blocks.{i}.hook_out"] for i in range(demo.cfg.n_layers)),
        ]
        states = torch.cat(states).double().detach()
        steps = (states[1:] - states[:-1]).norm(dim=-1).sum(0)
        turn = torch.nn.functional.cosine_similarity(states[0], states[-1], dim=-1).arccos()
        for row in rows.itertuples():
            at = row.position - 1
            if at < 0:
                assert np.isnan([row.log_prob, row.entropy, row.path]).all()
                continue
            assert row.log_prob == pytest.approx(log_p[at, row.token_id].item(), abs=1e-3)
            entropy = -(log_p[at].exp() * log_p[at]).sum().item()
            assert row.entropy == pytest.approx(entropy, abs=1e-3)
            if at == 0:  # the way of BOS is none of a token's
                assert np.isnan([row.path, row.angle_to_start, row.angular_path]).all()
                continue
            assert row.path == pytest.approx(steps[at].item(), rel=1e-4)
            assert row.angle_to_start == pytest.approx(turn[at].rad2deg().item(), abs=0.02)
    assert frame["settling_depth"].dropna().between(1, demo.cfg.n_layers).all()


def test_the_angle_of_three_sides_is_exact_for_needles():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.1, 10, (2, 200))
    angles = np.radians(np.concatenate([rng.uniform(0, 180, 196), [1e-5, 0.0, 180.0, 179.999]]))
    # In extended precision: the third side of a needle has few digits left in float64.
    wide = [x.astype(np.longdouble) for x in (a, b, angles)]
    c = np.sqrt((wide[0] - wide[1]) ** 2 + 4 * wide[0] * wide[1] * np.sin(wide[2] / 2) ** 2)
    found = angle_of_sides(a, b, c.astype(np.float64))
    assert np.allclose(found, np.degrees(angles), atol=1e-4)
    assert np.isnan(angle_of_sides(np.zeros(1), np.ones(1), np.ones(1))).all()


def test_a_step_has_the_mean_of_its_texts_with_the_prompt_as_unit():
    tables, _ = planted(0)
    frame = written_values(tables)
    rows = frame[frame["generation_step"] > 0]
    curve = step_means(rows, ["entropy"]).set_index("x")
    third = rows[rows["generation_step"] == 3]
    means = third.groupby("given")["entropy"].mean()
    low, high = stats.t.interval(0.95, 7, means.mean(), stats.sem(means))
    assert curve.loc[3, "mean"] == pytest.approx(third["entropy"].mean())
    # An entropy is not below 0: the interval of the logarithm, by the delta method.
    mean = (low + high) / 2
    ends = [mean * np.exp(sign * (high - low) / 2 / mean) for sign in (-1, 1)]
    assert curve.loc[3, ["low", "high"]].tolist() == pytest.approx(ends)
    assert curve.loc[3, ["n", "prompts"]].tolist() == [32, 8]
    two = step_means(rows[rows["given"] < 2], ["entropy"])
    assert two["mean"].notna().all()
    assert two[["low", "high"]].isna().all(axis=None)


# ---- drift -------------------------------------------------------------------------------------


def test_a_planted_drift_is_found_and_its_interval_is_scipys():
    tables, _ = planted(1, drift=0.15)
    found = generation_steps(tables)
    row = found.frame.set_index("value").loc["entropy"]
    frame = written_values(tables)
    rows = frame[frame["generation_step"] > 0]
    slopes = []
    for _, part in rows.groupby("given"):  # the texts of a prompt have the same steps
        own = [
            stats.linregress(t["generation_step"], t["entropy"]).slope
            for _, t in part.groupby("prompt")
        ]
        slopes.append(np.mean(own))
    low, high = stats.t.interval(0.95, 7, np.mean(slopes), stats.sem(slopes))
    assert [row["slope"], row["low"], row["high"]] == pytest.approx([np.mean(slopes), low, high])
    assert row["p_max"] < 0.05
    assert found.frame.set_index("value").loc["log_prob", "p_max"] > 0.05
    assert f"entropy {row['slope']:+.3g} [" in found.sentence
    assert list(found.drawings) == ["Log-probability", "Entropy"]  # these tables have no words
    assert found.plot("Entropy").data


def test_without_a_drift_one_in_twenty_is_found():
    hits = {"p": 0, "p_max": 0}
    for seed in range(120):
        frame = generation_steps(planted(seed)[0], resamples=300, seed=seed).frame
        hits["p"] += frame["p"].iloc[0] <= 0.05
        hits["p_max"] += frame["p_max"].min() <= 0.05
    # Binomial bounds of 120 draws at 0.05 that hold in 995 of 1000.
    assert all(1 <= n <= 14 for n in hits.values()), hits


def test_only_the_first_steps_count_where_asked():
    tables, _ = planted(2, drift=0.1)
    found = generation_steps(tables, first=4, values="entropy")
    listed = generation_steps(tables, first=4, values=["entropy"])
    pd.testing.assert_frame_equal(found.frame, listed.frame)
    assert found.tokens["generation_step"].max() == 4
    assert found.frame["n"].tolist() == [32 * 4]


# ---- right and wrong ---------------------------------------------------------------------------


def test_wrong_answers_are_compared_with_the_prompt_as_cluster():
    tables, wrong = planted(3, apart=1.0)
    found = generation_steps(tables, labels=(~wrong).tolist())
    assert found.labels == ("correct", "wrong")
    row = found.comparison.set_index("value").loc["entropy"]
    means = found.tokens.groupby("prompt")["entropy"].mean()
    assert row["mean_a"] == pytest.approx(means[~wrong].mean())
    assert row["difference"] == pytest.approx(means[~wrong].mean() - means[wrong].mean())
    # Within prompts: least squares on the label with a level per prompt.
    given = np.arange(32) // 4
    centred = [
        v - pd.Series(v).groupby(given).transform("mean")
        for v in (means.to_numpy(), (~wrong).astype(float))
    ]
    assert row["within"] == pytest.approx((centred[0] @ centred[1]) / (centred[1] @ centred[1]))
    assert row["p_max"] < 0.05
    assert "correct minus wrong: " in found.sentence
    lines = found.drawings["Entropy"].table["group"].unique()
    assert set(lines) == {"as written", "correct", "wrong"}


def test_labels_that_mean_nothing_are_found_in_one_of_twenty():
    hits = 0
    for seed in range(120):
        tables, wrong = planted(seed)
        frame = generation_steps(tables, labels=wrong.tolist(), resamples=200, seed=seed).comparison
        hits += frame["p_max"].min() <= 0.05
    assert 1 <= hits <= 14


def test_an_answer_in_a_column_makes_the_labels(demo):
    results = interp.generate(
        demo, PROMPTS, ["next_token"], max_new_tokens=6, do_sample=True, samples=4, seed=2,
        labels={"answer": ["was"] * 5}, progress=False,
    )  # fmt: skip
    texts = results.texts["text"]
    right = texts.str.contains(r"\bwas\b", case=False)
    if right.all() or not right.any():
        pytest.skip("this model's texts all have the word, or none")
    found = generation_steps(results, answer="answer", resamples=50)
    row = found.comparison.iloc[0]
    assert [row["texts_a"], row["texts_b"]] == [right.sum(), (~right).sum()]


# ---- controls ----------------------------------------------------------------------------------


def test_controls_keep_prompt_length_and_special_tokens(results):
    tokens = results.tokens.sort_values(["prompt", "position"])
    texts = [rows.copy() for _, rows in tokens.groupby("prompt")]
    texts[0].loc[texts[0].index[-1], "special"] = True  # as a token that ends a text
    ordinary = np.arange(10, 60)
    for kind in (SHUFFLED, RANDOM):
        made = control_texts(texts, kind, ordinary, 0)
        for rows, ids in zip(texts, made, strict=True):
            old, new = rows["token_id"].to_numpy(), rows["generated"].to_numpy()
            assert (ids[~new] == old[~new]).all()
            free = new & ~rows["special"].to_numpy(bool)
            assert (
                ids[rows["special"].to_numpy(bool)] == old[rows["special"].to_numpy(bool)]
            ).all()
            if kind == SHUFFLED:
                assert sorted(ids[free]) == sorted(old[free])
            else:
                assert np.isin(ids[free], ordinary).all()
        assert any((ids != rows["token_id"]).any() for rows, ids in zip(texts, made, strict=True))
        again = control_texts(texts, kind, ordinary, 0)
        assert all((a == b).all() for a, b in zip(made, again, strict=True))


def test_a_run_with_its_controls(demo, results, tmp_path):
    found = generation_steps(results, demo, resamples=100)
    assert set(found.frame["text"]) == {"as written", "shuffled", "random tokens"}
    assert found.frame.groupby("value").size().tolist() == [3] * 6
    own = found.frame.set_index(["text", "value"])
    # The first token is chosen after the prompt alone: what it was chosen from is the same.
    first = found.curves[(found.curves["x"] == 1) & (found.curves["value"] == "entropy")]
    assert first["mean"].to_numpy() == pytest.approx(first["mean"].iloc[0], abs=1e-4)
    for kind in (SHUFFLED, RANDOM):
        row = own.loc[(kind, "log_prob")]
        # Same steps, so the difference of the slopes is the slope of the differences.
        assert row["difference"] == pytest.approx(
            own.loc[("as written", "log_prob"), "slope"] - row["slope"], rel=1e-6, abs=1e-9
        )
        assert row["mean"] < own.loc[("as written", "log_prob"), "mean"]
    assert found.control is not None
    assert "shuffled" in found.sentence
    drawing = found.drawings["Log-probability"]
    assert set(drawing.options["greys"]) == {"shuffled", "random tokens", "untrained copy"}
    styles = zip(drawing.options["greys"], ("solid", "dashed", "dashes and dots"), strict=True)
    assert drawing.control == f"Grey: {', '.join(f'{name} ({dash})' for name, dash in styles)}."
    assert found.drawings["The texts"].table["written"].tolist()[:2] == [False, False]
    assert found.plot("The texts").data
    assert found.about["model"] == "demo-llama"
    found.save(tmp_path / "steps")
    assert "over the steps" in (tmp_path / "steps" / "report.html").read_text()


def test_a_loaded_run_gives_the_same(results, tmp_path):
    again = interp.load(results.save(tmp_path / "out"))
    one, two = (generation_steps(r, resamples=50).frame for r in (results, again))
    pd.testing.assert_frame_equal(one, two)


def test_special_tokens_are_left_out_and_told(demo):
    stop = int(interp.generate(demo, PROMPTS, "norm", max_new_tokens=4, stop=[], progress=False)
               .tokens.query("generation_step == 3")["token_id"].iloc[0])  # fmt: skip
    results = interp.generate(
        demo, PROMPTS, "next_token", max_new_tokens=6, stop=[stop], progress=False
    )
    marked = results["next_token"]
    marked.tokens.loc[marked.tokens["token_id"] == stop, "special"] = True
    found = generation_steps(results, resamples=50)
    assert stop not in found.tokens["token_id"].tolist()
    assert any("special tokens were left out" in note for note in found.notes)
    kept = generation_steps(results, special=True, resamples=50)
    assert len(kept.tokens) > len(found.tokens)


# ---- bad input ---------------------------------------------------------------------------------


def test_results_that_do_not_fit_are_refused(demo, results):
    plain = interp.run(demo, PROMPTS, "next_token", progress=False)
    with pytest.raises(BadInput, match="of no generation: .*interp run --generate N"):
        generation_steps(plain)
    bare = interp.generate(demo, PROMPTS, "norm", max_new_tokens=3, stop=[], progress=False)
    with pytest.raises(BadInput, match="no table here has a measure of the written tokens"):
        generation_steps(bare)
    few = interp.generate(demo, PROMPTS, "next_token", max_new_tokens=1, stop=[], progress=False)
    with pytest.raises(BadInput, match="no text has two written tokens"):
        generation_steps(few)
    with pytest.raises(UnknownName, match="value of a written token 'entrop'.*entropy"):
        generation_steps(results, values=["entrop"])
    with pytest.raises(BadInput, match="first is 1; a slope needs 2"):
        generation_steps(results, first=1)
    with pytest.raises(BadInput, match="written by demo-llama, and controls= is demo:"):
        generation_steps(results, "demo")
    with pytest.raises(BadInput, match="controls= needs the results of interp.generate"):
        generation_steps(planted(0)[0], "demo")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([True] * 3, "labels= has 3 values and there are 15 texts"),
        ([True] * 15, "the texts have 1 labels .correct., and two are compared"),
        ([*"abc"] * 5, "the texts have 3 labels .a, b, c."),
    ],
)
def test_labels_that_do_not_fit_are_refused(results, labels, message):
    with pytest.raises(BadInput, match=message):
        generation_steps(results, labels=labels)


def test_labels_and_answer_exclude_each_other(results):
    with pytest.raises(BadInput, match="two ways to the same labels"):
        generation_steps(results, labels=[True] * 15, answer="given")
    with pytest.raises(UnknownName, match="label 'anser'"):
        generation_steps(results, answer="anser")


def test_few_prompts_are_told():
    found = generation_steps(planted(0, prompts=3)[0])
    assert any("cannot be decided with so few prompts" in note for note in found.notes)
    one = generation_steps(planted(0, prompts=1)[0])
    assert any("one prompt was continued" in note for note in one.notes)
    assert "nan" not in one.sentence
    assert all("nan" not in drawing.said for drawing in one.drawings.values())


def test_every_column_is_explained():
    tables, wrong = planted(0)
    found = generation_steps(tables, labels=wrong.tolist(), resamples=50)
    assert set(found.frame) <= set(found.columns)
    compared = {f"{name} (of the comparison)" for name in found.comparison}
    ends = ("_low (of", "_high (of")
    plain = {c for c in compared if not any(end in c for end in ends)}
    assert plain - set(found.columns) == {
        f"{c} (of the comparison)" for c in ("value", "a", "b", "texts_b", "prompts")
    }


# ---- after the end of a text ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def beyond(demo):
    """Texts that go on after their end, and the same draws with the model's own stop tokens."""
    how = {"max_new_tokens": 12, "do_sample": True, "samples": 3, "seed": 0, "progress": False}
    return [interp.generate(demo, PROMPTS, "next_token", **how, **s) for s in ({"stop": []}, {})]


def test_what_was_written_after_the_end_of_a_text_is_left_out(demo, beyond):
    """The tables, and those of both controls, are those of texts that stop there."""
    on, ended = (generation_steps(r, demo, resamples=100) for r in beyond)
    pd.testing.assert_frame_equal(on.frame, ended.frame, rtol=1e-3, atol=1e-4)
    assert len(on.tokens) == len(ended.tokens)
    tokens = beyond[0].tokens
    end = demo.tokenizer.eos_token_id
    written = tokens[tokens["generated"]]
    after = written.groupby("prompt")["token_id"].apply(
        lambda ids: len(ids) - 1 - ids.tolist().index(end) if end in ids.tolist() else 0
    )
    assert after.sum() > 0
    told = f"{(after > 0).sum()} of 15 texts go on after the token that ends them; {after.sum()} of"
    assert any(note.startswith(told) and "are left out" in note for note in on.notes)
    assert not any("go on after" in note for note in ended.notes)


def test_the_tokens_after_the_end_are_kept_where_asked(beyond):
    kept = generation_steps(beyond[0], after_end=True, resamples=100)
    assert len(kept.tokens) > len(generation_steps(beyond[0], resamples=100).tokens)
    assert any("a slope over both texts also measures the seam" in note for note in kept.notes)


def test_a_generation_says_that_its_texts_go_on_after_their_end(beyond):
    on, ended = (r.provenance["prompts"]["notes"] for r in beyond)
    assert any("texts go on after a token that ends a text ('<|endoftext|>')" in n for n in on)
    assert not any("go on after" in note for note in ended)


def test_no_curve_leaves_the_range_of_its_measure():
    """Entropies near 0 and log-probabilities just below it, where Student's interval crosses 0."""
    rng = np.random.default_rng(0)
    given = np.arange(400) % 4
    frame = pd.DataFrame({"given": given, "generation_step": np.arange(400) // 4})
    frame = frame.assign(entropy=rng.gamma(0.2, 1, 400), log_prob=-rng.gamma(0.2, 1, 400))
    found = step_means(frame, ["entropy", "log_prob"])
    entropy, log_prob = (found[found["value"] == name] for name in ("entropy", "log_prob"))
    assert (entropy["low"] >= 0).all()
    assert (log_prob["high"] <= 0).all()
    spread = frame.groupby("generation_step")["entropy"].agg(["mean", "sem"])
    assert (spread["mean"] < stats.t.ppf(0.975, 3) * spread["sem"]).any()


# ---- targets of the run --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aimed(demo):
    """Texts whose outcome is one answer at every place, and not the token that comes next."""
    return interp.generate(
        demo, PROMPTS[:3], ["next_token", "logit_difference", "norm"], targets=" her",
        against=" his", max_new_tokens=4, stop=[], progress=False,
    )  # fmt: skip


def log_prob_of(demo, ids, answer):
    """Log-probability of a token after each token: `[position]`, in float64."""
    import torch

    logits = demo(torch.tensor(ids.tolist())[None])[0].double().detach()
    return logits.log_softmax(-1)[:, answer].numpy()


def as_controls(demo, results, kind):
    """The control texts that the finding read with seed 0."""
    from interp.models.for_model import special_ids_of

    ordinary = np.setdiff1d(np.arange(len(demo.tokenizer)), special_ids_of(demo))
    texts = [rows for _, rows in results.tokens.groupby("prompt")]
    return control_texts(texts, kind, ordinary, 0)


@pytest.mark.parametrize("loaded", [False, True])
def test_controls_have_the_targets_of_the_run(demo, aimed, tmp_path, loaded):
    results = interp.load(aimed.save(tmp_path / "out")) if loaded else aimed
    answer = demo.to_single_token(" her")
    found = generation_steps(results, demo, after_end=True, resamples=50)
    frame = found.frame.set_index(["value", "text"])
    written = [rows["token_id"].to_numpy() for _, rows in aimed.tokens.groupby("prompt")]
    texts = {"as written": written}
    texts |= {kind: as_controls(demo, aimed, kind) for kind in (SHUFFLED, RANDOM)}
    special = aimed.tokens["special"].to_numpy(bool)
    step = aimed.tokens["generation_step"].to_numpy()
    for kind, ids in texts.items():
        # The value of a token is that of the pass that chose it, one place before.
        chosen = [np.append(np.nan, log_prob_of(demo, row, answer)[:-1]) for row in ids]
        expected = np.concatenate(chosen)[(step > 0) & ~special].mean()
        assert frame.loc[("log_prob", kind), "mean"] == pytest.approx(expected, abs=1e-4)


def test_controls_have_one_target_per_text_and_second_answers(demo):
    answers, others = [" her", " his", " her"], [" his", " her", " him"]
    results = interp.generate(
        demo, PROMPTS[:3], ["next_token", "logit_difference"], targets=answers, against=others,
        max_new_tokens=4, stop=[], progress=False,
    )  # fmt: skip
    found = generation_steps(
        results, demo, values=["logit_diff"], after_end=True, special=True, resamples=50
    )
    frame = found.frame.set_index("text")
    pairs = [[demo.to_single_token(t) for t in both] for both in zip(answers, others, strict=True)]
    step = [rows["generation_step"].to_numpy() for _, rows in results.tokens.groupby("prompt")]
    for kind in (SHUFFLED, RANDOM):
        values = []
        for ids, (one, other), steps in zip(
            as_controls(demo, results, kind), pairs, step, strict=True
        ):
            z = log_prob_of(demo, ids, one) - log_prob_of(demo, ids, other)
            values.extend(z[:-1][steps[1:] > 0])
        assert frame.loc[kind, "mean"] == pytest.approx(np.mean(values), abs=1e-4)


def test_controls_run_only_the_analyses_of_the_values(demo, aimed, monkeypatch):
    module = sys.modules["interp.experiments.generation_steps"]  # the name is also the function's
    ran, whole = [], module.run
    monkeypatch.setattr(
        module,
        "run",
        lambda model, texts, analyses, **options: (
            ran.append([a.name() for a in analyses]) or whole(model, texts, analyses, **options)
        ),
    )
    generation_steps(aimed, demo, resamples=50)
    assert ran == [["next_token"]] * 2


def test_controls_of_a_folder_without_its_targets_are_refused(demo, aimed, tmp_path):
    old = interp.load(aimed.save(tmp_path / "out"))
    del old.provenance["answers"]  # as folders of earlier versions
    with pytest.raises(BadInput, match="have targets= of their own.*repeat the run"):
        generation_steps(old, demo, resamples=50)
    assert len(generation_steps(old, resamples=50).frame)
