"""The payload of the explorer: every number against the tables, and what it says of what lacks."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from corpus_help import documents, write_jsonl
from explorer_help import Told, data_of, read, with_ways
from render_data import HOSTILE, LAYERS, LENGTH, PROMPTS, make_results

import interp
from analyses.attention import Attention
from analyses.logit_lens import LogitLens
from analyses.path_length import PathLength
from analyses.rotation import Rotation
from analyses.trajectory import Trajectory
from interp import BadInput, Result, Results
from interp.render.packed import unpacked
from interp.runs.explorer import attention as attention_module
from interp.runs.explorer.measures import unit_of
from interp.runs.explorer.payload import payload_of, title_of
from interp.runs.explorer.small import made_small, note_of
from interp.runs.report.drawings import head_table
from interp.runs.report.views import View

ARCHIVE = Path(__file__).parents[1] / "data" / "saved_by_0.1.0.zip"
TEXTS = [
    "the a man queen dog saw told met her",
    "her red old house",
    "man road in",
    "her him her him her",
    "on",
]
CHOSEN = [Rotation(), PathLength(), LogitLens(examples=2, top_k=3), Attention(maps=2), Trajectory()]


@pytest.fixture(scope="module")
def run(gpt2):
    """A real run of a tiny model, with an untrained copy."""
    labels = {"genre": ["a", "b", "a", "b", None]}
    return interp.run(gpt2, TEXTS, CHOSEN, labels=labels, control="random-init", progress=False)


@pytest.fixture(scope="module")
def told(run):
    return Told(payload_of(run))


@pytest.fixture(scope="module")
def made():
    """Handmade results with hostile tokens."""
    return with_ways()


# ---- numbers -----------------------------------------------------------------------------------


def long(frame: pd.DataFrame, value: str) -> pd.DataFrame:
    """A column of a table, keyed as `Told.values` is."""
    depth = frame["layer"].astype(str) if "layer" in frame else ""
    rows = frame[["prompt", "position"]].assign(depth=depth, expected=frame[value].astype(float))
    return rows.astype({"prompt": object})


@pytest.mark.parametrize("side", ["values", "control"])
def test_every_number_is_that_of_its_table(run, told, side):
    checked = 0
    for name in told.names:
        analysis, value = name.split(".")
        result = run[analysis] if side == "values" else run.control[analysis]
        joined = told.values(name, side).merge(
            long(result.frame, value), on=["prompt", "position", "depth"], how="outer"
        )
        np.testing.assert_array_equal(
            joined["value"].to_numpy(np.float32), joined["expected"].to_numpy(np.float32), name
        )
        checked += int(joined["value"].notna().sum())
    assert checked > 1000


def test_a_small_page_rounds_its_numbers_and_leaves_the_copy_out(run):
    whole = payload_of(run)
    small = made_small(whole)
    Told(small)
    assert note_of(whole).count("untrained copy") == 1
    assert whole["control_name"] is not None
    assert small["control_name"] is None
    assert "interp explore" in small["missing"]["control"]
    assert "control" not in whole["missing"]
    for one, other in zip(small["measures"], whole["measures"], strict=True):
        mine, own = unpacked(one["values"]), unpacked(other["values"]).astype(np.float64)
        np.testing.assert_allclose(mine, own, rtol=2.0**-16, atol=0)
        # Sixteen digits: a whole number times a power of two.
        digits = np.frexp(mine[np.isfinite(mine)].astype(np.float64))[0] * 2.0**16
        assert (digits == digits.round()).all()
        assert (one["control"], one["control_band"]) == (None, None)
    for part in ("lens", "trajectory", "attention"):
        assert "untrained" not in json.dumps(small[part])
    assert small["lens"]["control"] is None
    assert not [x for x in small["attention"]["patterns"] if x["control"] is not None]
    assert len(json.dumps(small)) < 0.6 * len(json.dumps(whole))


def test_every_numeric_column_of_tokens_is_a_measure(run, told):
    for name in ("rotation", "path_length", "logit_lens"):
        columns = set(run[name].values) - {"position", "token_id"}
        assert {f"{name}.{c}" for c in columns} <= set(told.names)
    assert "trajectory.outside" in told.names
    assert not [n for n in told.names if n.startswith(("attention.", "trajectory.pc"))]
    assert len(told.names) == len(set(told.names))


def test_tokens_and_labels_are_those_of_the_run(run, told):
    tokens = told.tokens
    assert tokens["token"].tolist() == run.tokens["token"].tolist()
    assert tokens["special"].tolist() == run.tokens["special"].tolist()
    assert tokens["position"].tolist() == run.tokens["position"].tolist()
    expected = run.tokens["genre"].astype(object).where(run.tokens["genre"].notna(), None)
    assert told.label("genre") == expected.tolist()
    assert "genre" in told.payload["prompts"]["labels"], "it is the same for all tokens"
    words = read(told.payload["tokens"]["word"])
    first = run.tokens.groupby("prompt")["word"].transform(lambda w: w.ne(w.shift(fill_value=-1)))
    assert words.tolist() == (first & (run.tokens["word"] >= 0)).astype(int).tolist()


def test_depths_are_blocks_or_states_as_the_table_counts_them(run, told):
    blocks, states = told.measure("rotation.angle"), told.measure("logit_lens.entropy")
    n = run["rotation"].frame["layer"].max() + 1
    assert (blocks["axis"], blocks["depth"]) == ("block", [str(i) for i in range(n)])
    assert (states["axis"], states["depth"]) == ("state", [str(i) for i in range(n + 1)])
    assert blocks["unit"] == "degrees"
    assert "θ" in blocks["doc"]


@pytest.mark.parametrize("control", [False, True])
def test_the_lens_has_the_kept_examples(run, told, control):
    lens = told.payload["lens"]
    side = lens["control"] if control else lens
    result = (run.control if control else run)["logit_lens"]
    tokens, probs = read(side["tokens"]), read(side["probs"])
    assert lens["prompts"] == [0, 1]
    assert lens["k"] == 3
    assert len(lens["states"]) == tokens.shape[1]
    kept = result.examples("top_tokens")["", -1], result.examples("top_probs")["", -1]
    page = told.tokens
    for prompt in (0, 1):
        rows = np.flatnonzero(page["prompt"] == prompt)
        texts = np.asarray(lens["texts"], object)[tokens[rows].swapaxes(0, 1)]
        expected = np.vectorize(result.strings.get)(kept[0][prompt])
        assert texts.tolist() == expected.tolist()
        np.testing.assert_array_equal(probs[rows].swapaxes(0, 1), kept[1][prompt])
    others = np.flatnonzero(~page["prompt"].isin([0, 1]))
    assert (tokens[others] == -1).all()
    assert np.isnan(probs[others]).all()


def test_ways_have_the_coordinates_of_the_table(run, told):
    ways = told.payload["trajectory"]
    coords, frame = read(ways["coords"]), run["trajectory"].frame
    for axis in range(3):
        grid = frame.sort_values(["prompt", "position", "layer"])[f"pc{axis + 1}"].to_numpy()
        np.testing.assert_array_equal(coords[..., axis].ravel(), grid.astype(np.float32))
        share = frame[f"pc{axis + 1}_share"].iloc[0]
        assert ways["explained"][axis] == pytest.approx(share, rel=1e-6)
    assert ways["control"] is not None


def test_tokens_beyond_the_kept_ones_have_no_way(made):
    coords = read(payload_of(made)["trajectory"]["coords"])
    known = np.isfinite(coords).all(axis=(1, 2))
    assert known.tolist() == [i < 40 for i in range(PROMPTS * LENGTH)]


def test_heads_have_the_means_and_patterns_of_the_run(run, told):
    attention = told.payload["attention"]
    result = run["attention"]
    for statistic in attention["statistics"]:
        value = statistic["name"].split(".")[1]
        rows = result.frame[~result.frame["special"]]
        mean = rows.groupby(["layer", "head"])[value].mean().unstack().to_numpy()
        np.testing.assert_allclose(read(statistic["values"]), mean, rtol=1e-5, atol=1e-6)
        beside = run.control["attention"].frame
        mean = beside[~beside["special"]].groupby(["layer", "head"])[value].mean().unstack()
        np.testing.assert_allclose(read(statistic["control"]), mean, rtol=1e-5, atol=1e-6)
    for pattern in attention["patterns"]:
        weights = read(pattern["values"]) / 65535
        for i, block in enumerate(pattern["blocks"]):
            kept = result.examples("pattern")["", block][pattern["prompt"]]
            np.testing.assert_allclose(weights[i], kept, atol=0.6 / 65535)
    assert [p["prompt"] for p in attention["patterns"]] == [0, 1]


def test_rollout_is_that_of_the_experiment(run, told):
    found = interp.experiments.rollout_maps(run["attention"])
    even = interp.experiments.rollout_maps(run["attention"], uniform=True)
    for rolled in told.payload["attention"]["rollout"]:
        for side, expected in (("values", found), ("even", even)):
            shares = read(rolled[side]) / 65535
            np.testing.assert_allclose(shares, expected[rolled["prompt"]], atol=0.6 / 65535)


def test_head_statistics_without_a_control_have_none(made):
    statistics = payload_of(made)["attention"]["statistics"]
    assert {s["name"] for s in statistics} >= {"attention.induction", "attention.entropy"}
    assert all(s["control"] is None for s in statistics)
    view = View(made["attention"], made["attention"].analysis.plots[0])
    table = head_table(view).query("value == 'induction'")
    grid = read(next(s for s in statistics if s["name"] == "attention.induction")["values"])
    np.testing.assert_allclose(grid.ravel(), table.sort_values(["layer", "head"])["mean"], 1e-6)


# ---- the test and its control ------------------------------------------------------------------


def test_the_comparison_of_the_report_is_in_the_payload(made):
    payload = made.explore().payload
    first, *others = payload["tests"]
    assert first["measure"] == "rotation.angle"
    assert (first["between"], first["a"], first["b"]) == ("role", "target", "previous")
    found = interp.compare(made["rotation"], "angle", "role", "target", "previous")
    np.testing.assert_allclose(first["difference"], found.frame[found.contrast], rtol=1e-6)
    np.testing.assert_allclose(first["p"], found.frame[found.family_p], rtol=1e-6)
    assert first["depth"] == [str(i) for i in range(LAYERS)]
    assert any("shuffled" in test["text"] for test in others)
    story = payload["story"]
    assert story[0]["text"].startswith(first["text"])
    assert any("shuffled" in part["text"] for part in story[1:])


def test_a_run_without_target_words_has_no_story(run):
    payload = run.explore().payload
    assert payload["story"] is None
    assert payload["tests"] == []


# ---- what lacks --------------------------------------------------------------------------------


def test_a_view_without_data_names_the_command_that_adds_it(gpt2):
    results = interp.run(gpt2, TEXTS[:1], ["rotation"], progress=False)
    payload = payload_of(results)
    for view, analysis in (
        ("lens", "logit_lens"),
        ("trajectory", "trajectory"),
        ("attention", "attention"),
    ):
        assert payload[view] is None
        assert payload["missing"][view] == (f"interp run … --analyses rotation,{analysis} adds it.")
    assert payload["more"] == {}
    assert payload["control_name"] is None
    assert payload["measures"][0]["control"] is None


def test_an_analysis_that_kept_no_examples_names_the_setting(gpt2):
    settings = {"logit_lens.examples": 0, "attention.maps": 0}
    names = ["logit_lens", "attention"]
    results = interp.run(gpt2, TEXTS[:2], names, settings=settings, progress=False)
    payload = payload_of(results)
    assert (payload["lens"]["k"], payload["lens"]["best"]) == (1, [0, 1])
    assert "lens" not in payload["missing"]
    assert "--set attention.maps=8" in payload["missing"]["attention"]
    assert payload["attention"]["patterns"] == []
    assert payload["attention"]["statistics"]
    assert "--set logit_lens.examples=8" in payload["more"]["lens"]


def test_weights_alone_have_nothing_to_explore(gpt2):
    results = interp.run(gpt2, analyses=["unembedding_spectrum"], progress=False)
    with pytest.raises(
        BadInput, match=r"unembedding_spectrum\) have no numbers of tokens; run analyses"
    ):
        results.explore()
    with pytest.raises(BadInput, match="height is 0; allowed is a number of pixels"):
        interp.run(gpt2, TEXTS[:1], ["norm"], progress=False).explore(height=0)


def test_a_report_without_numbers_of_tokens_has_no_explorer(gpt2, tmp_path):
    results = interp.run(gpt2, TEXTS, ["layer_similarity", "position_profile"], progress=False)
    with pytest.raises(BadInput, match=r"layer_similarity, position_profile\) have no numbers"):
        results.explore()
    report = results.report(tmp_path / "report.html").read_text(encoding="utf-8")
    assert "interp-explorer" not in report


# ---- unusual runs ------------------------------------------------------------------------------


def test_one_prompt_of_one_token(gpt2):
    results = interp.run(gpt2, [[5]], CHOSEN, progress=False)
    told = Told(payload_of(results))
    assert len(told.tokens) == 1
    angle = results["rotation"].frame["angle"].to_numpy(np.float32)
    np.testing.assert_array_equal(read(told.measure("rotation.angle")["values"])[0], angle)
    json.dumps(told.payload, allow_nan=False)


def test_columns_of_nothing_but_nan(made):
    tokens = made.tokens
    frame = made["rotation"].frame.assign(angle=np.nan)
    results = Results([Result("rotation", Rotation(), {}, tokens, _frame=frame)], {})
    payload = results.explore().payload
    assert np.isnan(read(payload["measures"][0]["values"])).all()
    json.dumps(payload, allow_nan=False)


def test_generated_tokens_are_marked(gpt2):
    results = interp.generate(gpt2, TEXTS[:2], "norm", max_new_tokens=3, stop=[], progress=False)
    told = Told(payload_of(results))
    marks = read(told.payload["tokens"]["generated"])
    assert marks.tolist() == results.tokens["generated"].astype(int).tolist()
    assert marks.sum() == 6
    assert told.label("generation_step") == results.tokens["generation_step"].tolist()
    assert "generated" not in told.payload["tokens"]["labels"]


def test_two_stacks_are_prompts_of_their_own():
    from conftest import _boot

    model = _boot("t5")
    results = interp.run(model, [[5, 6, 7], [8, 9]], ["rotation", "attention"], progress=False)
    told = Told(payload_of(results))
    ids = told.payload["prompts"]["id"]
    assert ids == ["0 encoder", "0 decoder", "1 encoder", "1 decoder"]
    for stack in ("encoder", "decoder"):
        values = told.values(f"{stack}: rotation.angle").dropna()
        assert set(values["prompt"]) == {f"{i} {stack}" for i in (0, 1)}
        frame = results["rotation"].frame.query("stack == @stack")
        expected = long(frame, "angle").assign(prompt=frame["prompt"].astype(str) + f" {stack}")
        joined = values.merge(expected, on=["prompt", "position", "depth"])
        assert len(joined) == len(values) == frame["angle"].notna().sum()
        np.testing.assert_array_equal(joined["value"], joined["expected"].astype(np.float32))
    assert {p["prompt"] for p in told.payload["attention"]["patterns"]} == {
        "0 encoder",
        "1 encoder",
    }


@pytest.mark.parametrize("folder", ["rows", "summary", "corpus"])
def test_an_older_schema_is_shown_as_far_as_it_goes(tmp_path, folder):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    results = interp.load(tmp_path / folder)
    if not len(results.tokens):
        with pytest.raises(BadInput, match="nothing to explore"):
            results.explore()
        return
    told = Told(results.explore().payload)
    assert told.names
    assert told.tokens["token"].tolist() == results.tokens["token"].tolist()
    assert set(told.payload["missing"]) == {"lens", "trajectory", "attention"}


# ---- size --------------------------------------------------------------------------------------


def test_a_run_with_more_than_fits_is_sampled_and_says_so(run):
    payload = payload_of(run, most=3000)
    told = Told(payload)
    shown = set(told.tokens["prompt"])
    assert 0 < len(shown) < len(TEXTS)
    assert payload["sampled"] == {"shown": len(shown), "of": len(TEXTS)}
    assert 0 in shown, "prompts of which more was kept come first"
    band = told.measure("rotation.angle")["band"]
    rows = run["rotation"].frame.query("not special")
    groups = rows.groupby("layer")["angle"]
    np.testing.assert_allclose(band["mean"], groups.mean(), rtol=1e-6)
    np.testing.assert_allclose(band["low"], groups.quantile(0.1), rtol=1e-6)
    np.testing.assert_allclose(band["high"], groups.quantile(0.9), rtol=1e-6)
    assert told.measure("rotation.angle")["control_band"]
    values = told.values("rotation.angle")
    joined = values.merge(long(run["rotation"].frame, "angle"), on=["prompt", "position", "depth"])
    np.testing.assert_array_equal(joined["value"], joined["expected"].astype(np.float32))
    assert len(joined) == len(values)


def test_a_run_that_fits_has_no_sample_and_no_band(told):
    assert told.payload["sampled"] is None
    assert told.measure("rotation.angle")["band"] is None


def test_a_sample_is_spread_over_the_run():
    from interp.runs.explorer.shown import shown_of

    tokens = pd.DataFrame({"prompt": np.arange(1000), "position": 0, "token": "x"})
    shown = shown_of(tokens, 100, kept=[0, 1, 2])
    prompts = shown.frame["prompt"].to_numpy()
    assert len(prompts) == 100
    assert {0, 1, 2} <= set(prompts.tolist())
    assert np.histogram(prompts, bins=10, range=(0, 1000))[0].min() >= 8
    assert (prompts == shown_of(tokens, 100, kept=[0, 1, 2]).frame["prompt"]).all()


def test_one_prompt_is_shown_however_long_it_is():
    from interp.runs.explorer.shown import shown_of

    tokens = pd.DataFrame({"prompt": np.repeat([0, 1], 50), "position": np.tile(range(50), 2)})
    tokens["token"] = "x"
    assert shown_of(tokens, 10).frame["prompt"].unique().tolist() == [0]


def test_long_patterns_are_cut_and_said(run, monkeypatch):
    monkeypatch.setattr(attention_module, "MOST_CELLS", 1300)
    monkeypatch.setattr(attention_module, "LEAST_TOKENS", 2)
    attention = payload_of(run)["attention"]
    first = attention["patterns"][0]
    cut = read(first["values"]).shape[-1]
    assert cut < len(run.tokens.query("prompt == 0"))
    kept = run["attention"].examples("pattern")["", 0][0][:, :cut, :cut]
    np.testing.assert_allclose(read(first["values"])[0] / 65535, kept, atol=0.6 / 65535)
    assert f"the first {cut} of " in attention["notes"][0]
    total = sum(np.prod(p["values"]["shape"]) * 2 for p in attention["patterns"])
    assert total <= 1300


def test_a_corpus_of_rows_shows_a_sample_of_its_documents(gpt2, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(300, longest=6))
    run = interp.run_corpus(
        gpt2,
        corpus,
        [Rotation(), Attention(maps=0)],
        out=tmp_path / "out",
        keep="tokens",
        labels=["kind"],
        shard_documents=40,
        progress=False,
    )
    tables = run.open()
    page = tables.explore()
    told = Told(page.payload)
    shown = sorted(set(told.tokens["prompt"]))
    assert page.payload["sampled"] == {"shown": len(shown), "of": 300}
    assert len(shown) == 64
    assert max(shown) > 200, "not the beginning of the corpus alone"
    values = told.values("rotation.angle").dropna()
    frame = tables["rotation"].frame
    joined = values.merge(long(frame, "angle"), on=["prompt", "position", "depth"])
    assert len(joined) == len(values) > 0
    np.testing.assert_array_equal(joined["value"], joined["expected"].astype(np.float32))
    kinds = frame.drop_duplicates("prompt").set_index("prompt")["kind"].astype(str)
    assert told.payload["prompts"]["labels"]["kind"] == kinds.reindex(shown).tolist()
    assert told.payload["attention"]["statistics"]


def test_a_corpus_summary_shows_means_over_all_of_it(gpt2, tmp_path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", documents(60, longest=6))
    chosen = [Rotation(), LogitLens(examples=2)]
    run = interp.run_corpus(gpt2, corpus, chosen, out=tmp_path / "out", progress=False)
    results = run.open()
    told = Told(results.explore().payload)
    measure = told.measure("rotation.angle")
    assert np.isnan(read(measure["values"])).all()
    table = results["rotation"].frame.query("value == 'angle'").sort_values("layer")
    np.testing.assert_allclose(measure["band"]["mean"], table["mean"], rtol=1e-6)
    np.testing.assert_allclose(measure["band"]["low"], table["q05"], rtol=1e-6)
    assert "90 %" in measure["band"]["of"]
    kept = list(results["logit_lens"].examples("top_tokens")["", -1])
    assert told.payload["lens"]["prompts"] == kept
    assert told.payload["sampled"] == {"shown": len(kept), "of": 60}


# ---- words -------------------------------------------------------------------------------------


def test_hostile_texts_are_data_and_the_page_cannot_begin_a_tag(made):
    page = made.explore(title="</title><script>window.hacked = 3</script>")
    payload = data_of(page.html)
    assert set(HOSTILE) <= set(payload["tokens"]["texts"])
    text = page.parts.data
    assert not set("<>&\u2028\u2029") & set(text)
    assert "<title>&lt;/title&gt;&lt;script&gt;" in page.html
    assert payload["title"] == "</title><script>window.hacked = 3</script>"


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("/home/someone/models/tiny", "Inside tiny"),
        ("../models/tiny/", "Inside tiny"),
        ("C:\\Users\\someone\\tiny", "Inside tiny"),
        ("openai/gpt2", "Inside openai/gpt2"),
        ("toy <model>", "Inside toy <model>"),
    ],
)
def test_the_title_names_the_model_and_never_its_folder(made, name, title):
    results = Results(made.values(), {**made.provenance, "model": {"name": name}})
    assert title_of(results) == title
    assert payload_of(results)["model"] == title.removeprefix("Inside ")


def test_the_provenance_is_one_line_with_all_that_is_known(run):
    line = payload_of(run)["provenance"]
    assert "\n" not in line
    assert "float32" in line
    assert run.provenance["prompts"]["sha256"][:12] in line
    assert f"interp-stream {run.provenance['versions']['interp-stream']}" in line


def test_units_are_read_from_the_declaration():
    doc = "log P(target) at this state; targets are the next tokens; nats, NaN if none"
    assert unit_of((), "log_prob", doc) == "nats"
    assert unit_of((), "rank", "0 = best; NaN without target") == ""
    assert unit_of(Rotation.plots, "turning", "φ") == "degrees"


def test_what_a_notebook_shows_is_the_page_in_a_frame(made):
    page = make_results().explore(height=500)
    shown = page._repr_html_()
    assert shown.startswith("<iframe")
    assert "height:500px" in shown
    assert repr(page).startswith("<Explorer 'Inside toy <model>': 12 prompts, ")


def test_the_file_is_not_replaced_unasked(made, tmp_path):
    page = made.explore()
    path = page.save(tmp_path / "explorer.html")
    with pytest.raises(BadInput, match="exists"):
        page.save(path)
    assert page.save(path, overwrite=True).read_text(encoding="utf-8") == page.html
