"""A series of models: its tables, failures, resumption, and what differs between members."""

from __future__ import annotations

import gc
import json
import weakref

import numpy as np
import pandas as pd
import pytest
from series_help import TEXTS, checkpoint, letters, run_of

import interp
from interp import BadInput, InterpError
from interp.errors import UnknownName
from interp.runs.series import run as module
from interp.runs.series.records import folder_of

ANALYSES = ["rotation", "path_length"]


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """A run of four checkpoints, whose last block turns up at step 100."""
    return run_of(tmp_path_factory.mktemp("runs") / "pilot")


@pytest.fixture(scope="module")
def found(pilot):
    return interp.series(pilot, TEXTS, ANALYSES, progress=False)


def loads(monkeypatch) -> list[str]:
    """The models that are loaded from now on, by path."""
    seen = []
    load = module.load_model

    def watched(model, **options):
        seen.append(str(model))
        return load(model, **options)

    monkeypatch.setattr(module, "load_model", watched)
    return seen


# ---- tables ----------------------------------------------------------------------------------


def test_every_member_has_the_tables_of_a_run_of_its_own(found, pilot):
    assert list(found) == ANALYSES
    assert found.members["at"].tolist() == [1, 10, 100, 1000]
    assert found.axis == "training step"
    for name in ("checkpoint-1", "checkpoint-100"):
        alone = interp.run(pilot / name, TEXTS, ANALYSES, progress=False)
        for analysis in ANALYSES:
            frame = found[analysis].frame
            rows = frame[frame["member"] == name].reset_index(drop=True)
            assert (rows.pop("at") == int(name.partition("-")[2])).all()
            pd.testing.assert_frame_equal(rows.drop(columns="member"), alone[analysis].frame)
            pd.testing.assert_frame_equal(found.member(name)[analysis].frame, alone[analysis].frame)


def test_tables_of_all_members_are_merged(found):
    both = found.merged("rotation", "path_length", how="inner")
    assert list(both.columns[:2]) == ["member", "at"]
    for name, rows in both.groupby("member"):
        alone = found.member(name).merged("rotation", "path_length", how="inner")
        rows = rows.reset_index(drop=True).drop(columns=["member", "at"])
        pd.testing.assert_frame_equal(rows, alone)
    assert both.attrs["columns"]["at"].startswith("place of the model in the series")
    assert both.attrs["columns"]["angle"].startswith("θ_l, angle between x_l and x_{l+1}")


def test_the_explorer_of_a_series_is_that_of_a_member(found):
    with pytest.raises(BadInput, match=r"series\.member\('checkpoint-1'\)\.explore\(\)"):
        found.explore()


def test_curves_are_the_means_of_every_member_with_their_bands(found):
    curves = found["rotation"].curves("angle")
    assert len(curves) == 4 * 3
    frame = found["rotation"].frame
    row = curves[(curves["member"] == "checkpoint-100") & (curves["layer"] == 2)].iloc[0]
    rows = frame[(frame["member"] == "checkpoint-100") & (frame["layer"] == 2) & ~frame["special"]]
    assert row["mean"] == pytest.approx(rows["angle"].mean())
    assert row["low"] < row["mean"] < row["high"]
    assert (row["n"], row["prompts"]) == (len(rows), 5)
    late = curves[(curves["layer"] == 2)].set_index("at")["mean"]
    assert late[100] > late[10] + 5


def test_figures_over_the_axis_over_layers_and_over_both(found):
    lines = found["rotation"].plot("angle", layers=[2])
    assert lines.layout.xaxis.type == "log"
    assert list(lines.layout.xaxis.ticktext) == ["1", "10", "100", "1000"]
    curves = found["rotation"].curves("angle")
    drawn = next(t for t in lines.data if t.mode and "lines" in t.mode and t.customdata is not None)
    assert list(drawn.y) == pytest.approx(curves[curves["layer"] == 2]["mean"], rel=1e-4)
    layers = found["rotation"].plot("angle", over="layers")
    assert {t.name for t in layers.data if t.customdata is not None} == set(found.results)
    heat = found["rotation"].plot("angle", over="both")
    assert heat.data[0].type == "heatmap"
    assert np.shape(heat.data[0].z) == (3, 4)
    assert found.plot("angle").layout.title.text == "angle over the series"
    with pytest.raises(UnknownName, match="unknown value of over 'step'"):
        found["rotation"].plot("angle", over="step")
    with pytest.raises(UnknownName, match="unknown layer '7'"):
        found["rotation"].plot("angle", layers=[7])
    with pytest.raises(UnknownName, match="unknown value column of 'rotation' 'angel'; did you"):
        found["rotation"].plot("angel")


def test_a_label_makes_a_line_for_each(pilot):
    kinds = {"kind": ["odd", "even", "odd", "even", "odd"]}
    found = interp.series(pilot, TEXTS, "rotation", labels=kinds, progress=False)
    curves = found["rotation"].curves("angle", by="kind")
    assert set(curves["kind"]) == {"odd", "even"}
    assert len(curves) == 2 * 4 * 3
    figure = found.plot("angle", by="kind")
    assert {t.name for t in figure.data if t.customdata is not None} == {"odd", "even"}


def test_summaries_have_curves_too(pilot):
    found = interp.series(pilot, TEXTS, "rotation", keep="summary", progress=False)
    assert "angle" in found["rotation"].values
    curves = found["rotation"].curves("angle")
    assert len(curves) == 4 * 3
    assert curves["mean"].notna().all()


def test_the_report_is_one_page(found, tmp_path):
    page = found.report(tmp_path / "r.html").read_text(encoding="utf-8")
    for text in ("checkpoint-1000", "training step", "layer by member", "over the series"):
        assert text in page
    assert 'src="http' not in page


# ---- one model in memory, failures, resumption -----------------------------------------------


def test_one_model_is_in_memory_at_a_time(pilot, monkeypatch):
    alive: list[weakref.ref] = []
    load = module.load_model

    def watched(model, **options):
        gc.collect()
        assert [ref for ref in alive if ref() is not None] == []
        bridge = load(model, **options)
        alive.append(weakref.ref(bridge))
        return bridge

    monkeypatch.setattr(module, "load_model", watched)
    interp.series(pilot, TEXTS[:2], ["rotation", "logit_lens", "attention"], progress=False)
    assert len(alive) == 4


def cut_short(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return folder


def test_a_member_that_fails_is_recorded_and_the_rest_goes_on(tmp_path):
    run = run_of(tmp_path / "run", (1, 10, 100))
    cut_short(run / "checkpoint-10")
    found = interp.series(run, TEXTS, "rotation", progress=False)
    assert found.members["status"].tolist() == ["measured", "failed", "measured"]
    (row,) = found.failures.to_dict("records")
    assert row["member"] == "checkpoint-10"
    assert "model.safetensors' is no safetensors file or is damaged (cut short: " in row["error"]
    assert "1,000" not in row["error"]
    assert "'checkpoint-10' was not measured" in found.notes[-1]
    assert set(found["rotation"].frame["member"]) == {"checkpoint-1", "checkpoint-100"}
    with pytest.raises(UnknownName, match="unknown measured member 'checkpoint-10'"):
        found.member("checkpoint-10")


def test_where_none_can_be_measured_the_first_error_is_raised(tmp_path):
    run = run_of(tmp_path / "run", (1, 10))
    for step in (1, 10):
        cut_short(run / f"checkpoint-{step}")
    with pytest.raises(
        InterpError, match="none of the 2 members could be measured; the first, 'ch"
    ):
        interp.series(run, TEXTS, "rotation", progress=False)


def test_a_series_is_saved_and_loaded(found, tmp_path):
    again = interp.load(found.save(tmp_path / "saved"))
    assert repr(again) == repr(found)
    for name in found:
        pd.testing.assert_frame_equal(again[name].frame, found[name].frame)
    pd.testing.assert_frame_equal(again.members, found.members)
    with pytest.raises(BadInput, match="exists; choose another or allow it to be replaced"):
        found.save(tmp_path / "saved")
    found.save(tmp_path / "saved", overwrite=True)


def test_a_finished_member_is_not_run_again(tmp_path, monkeypatch):
    run, out = run_of(tmp_path / "run", (1, 10)), tmp_path / "out"
    first = interp.series(run, TEXTS, "rotation", out=out, progress=False)
    frame = first["rotation"].frame
    seen = loads(monkeypatch)
    again = interp.series(run, TEXTS, "rotation", out=out, resume=True, progress=False)
    assert seen == []
    pd.testing.assert_frame_equal(again["rotation"].frame, frame)
    run_of(run, (100,))
    more = interp.series(run, TEXTS, "rotation", out=out, resume=True, progress=False)
    assert seen == [str(run / "checkpoint-100")]
    assert more.members["at"].tolist() == [1, 10, 100]
    whole = interp.series(run, TEXTS, "rotation", progress=False)
    pd.testing.assert_frame_equal(more["rotation"].frame, whole["rotation"].frame)
    with pytest.raises(BadInput, match=r"output folder .*out' exists"):
        interp.series(run, TEXTS, "rotation", out=out, progress=False)


def test_what_is_damaged_changed_or_failed_is_measured_again(tmp_path, monkeypatch):
    run, out = run_of(tmp_path / "run", (1, 10, 100)), tmp_path / "out"
    whole = (run / "checkpoint-10" / "model.safetensors").read_bytes()
    cut_short(run / "checkpoint-10")
    interp.series(run, TEXTS, "rotation", out=out, progress=False)
    (run / "checkpoint-10" / "model.safetensors").write_bytes(whole)
    (folder_of(out, "checkpoint-1") / "rotation.parquet").write_bytes(b"no table")
    checkpoint(run / "checkpoint-100", seed=5)
    seen = loads(monkeypatch)
    again = interp.series(run, TEXTS, "rotation", out=out, resume=True, progress=False)
    assert seen == [str(run / f"checkpoint-{step}") for step in (1, 10, 100)]
    assert again.failures.empty
    fresh = interp.series(run, TEXTS, "rotation", progress=False)
    pd.testing.assert_frame_equal(again["rotation"].frame, fresh["rotation"].frame)


def test_a_series_that_was_interrupted_is_readable_and_goes_on(tmp_path, monkeypatch):
    run, out = run_of(tmp_path / "run", (1, 10, 100)), tmp_path / "out"
    load = module.load_model

    def interrupted(model, **options):
        if str(model).endswith("checkpoint-10"):
            raise KeyboardInterrupt
        return load(model, **options)

    monkeypatch.setattr(module, "load_model", interrupted)
    with pytest.raises(KeyboardInterrupt):
        interp.series(run, TEXTS, "rotation", out=out, progress=False)
    half = interp.load(out)
    assert half.members["status"].tolist() == ["measured", "waiting", "waiting"]
    assert "2 members are not measured yet (checkpoint-10, checkpoint-100)" in half.notes[-1]
    monkeypatch.setattr(module, "load_model", load)
    seen = loads(monkeypatch)
    done = interp.series(run, TEXTS, "rotation", out=out, resume=True, progress=False)
    assert len(seen) == 2
    monkeypatch.setattr(module, "load_model", interrupted)
    (folder_of(out, "checkpoint-1") / "rotation.parquet").unlink()
    seen.clear()
    monkeypatch.setattr(module, "run", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        interp.series(run, TEXTS, "rotation", out=out, resume=True, progress=False)
    # What was measured before is there, although this call did not come to it.
    assert interp.load(out).members["status"].tolist() == ["measured"] * 3
    assert done.members["status"].eq("measured").all()


def test_another_series_is_not_resumed(tmp_path):
    run, out = run_of(tmp_path / "run", (1, 10)), tmp_path / "out"
    interp.series(run, TEXTS, "rotation", out=out, progress=False)
    with pytest.raises(BadInput, match="is another one and cannot be resumed: parameters.analyses"):
        interp.series(run, TEXTS, "norm", out=out, resume=True, progress=False)
    with pytest.raises(BadInput, match="prompts.sha256 was .*Use another folder, or repeat"):
        interp.series(run, TEXTS[:2], "rotation", out=out, resume=True, progress=False)
    with pytest.raises(
        BadInput, match=r"resume= continues the series in a folder: name it by out="
    ):
        interp.series(run, TEXTS, "rotation", resume=True, progress=False)
    found = interp.series(run, TEXTS, "norm", out=out, overwrite=True, progress=False)
    assert list(interp.load(out)) == list(found) == ["norm"]
    listing = json.loads((out / "series.json").read_text())
    assert [record["status"] for record in listing["members"]] == ["measured", "measured"]


# ---- members that differ ---------------------------------------------------------------------


def test_another_vocabulary_width_and_depth_are_said(tmp_path):
    base = checkpoint(tmp_path / "base")
    deep = checkpoint(tmp_path / "deep", num_hidden_layers=5)
    wide = checkpoint(tmp_path / "wide", hidden_size=32)
    other = checkpoint(tmp_path / "letters", tokenizer=letters)
    found = interp.series([base, deep, wide, other], TEXTS, ["rotation"], progress=False)
    said = " ".join(found.notes)
    assert "another depth than 'base' (3 blocks): 'deep' (5 blocks); layers of the same" in said
    assert "another width than 'base' (24 wide): 'wide' (32 wide); angles, shares" in said
    assert "another vocabulary than 'base' (113 tokens): 'letters' (113 tokens); their" in said
    curves = found["rotation"].curves("angle", depth="relative")
    assert curves.groupby("member")["layer"].nunique().eq(3).all()
    plain = found["rotation"].curves("angle").set_index(["member", "layer"])["mean"]
    even = curves.set_index(["member", "layer"])["mean"]
    assert even["deep", 1] == pytest.approx(plain["deep", 2])
    assert even["base"].tolist() == pytest.approx(plain["base"].tolist())


def test_token_ids_are_of_one_vocabulary(tmp_path):
    base = checkpoint(tmp_path / "base")
    other = checkpoint(tmp_path / "letters", tokenizer=letters)
    found = interp.series([base, other], [[5, 6, 7], [8, 9]], ["rotation"], progress=False)
    (row,) = found.failures.to_dict("records")
    assert row["error"] == (
        "the prompts are token ids, and the vocabulary of 'letters' is not that of 'base'; give "
        "texts, which each member tokenises itself"
    )


def test_options_are_refused_before_anything_is_loaded(pilot, monkeypatch):
    seen = loads(monkeypatch)
    asked = {"prompts": TEXTS, "analyses": "rotation", "progress": False}
    with pytest.raises(
        UnknownName, match="unknown option of a series 'lables'; did you mean 'labe"
    ):
        interp.series(pilot, lables={}, **asked)
    with pytest.raises(UnknownName, match="unknown analysis 'rotatoin'"):
        interp.series(pilot, TEXTS, "rotatoin", progress=False)
    with pytest.raises(BadInput, match="analysis 'rotation' reads prompts"):
        interp.series(pilot, None, "rotation", progress=False)
    with pytest.raises(BadInput, match="target word .zebra. occurs in none of the 5 prompts"):
        interp.series(pilot, target="zebra", **asked)
    assert seen == []


def test_a_label_that_takes_a_column_of_the_series(pilot):
    labels = {"at": ["x"] * len(TEXTS)}
    found = interp.series(pilot, TEXTS, "rotation", labels=labels, progress=False)
    with pytest.raises(
        BadInput, match="the tables have a column 'at' already, which a series puts"
    ):
        found["rotation"].frame  # noqa: B018


def test_weights_alone_need_no_prompts(pilot):
    found = interp.series(pilot, analyses="embedding", progress=False)
    assert set(found["embedding"].frame["member"]) == set(found.members["member"])
