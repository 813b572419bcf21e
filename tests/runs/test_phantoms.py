"""Phantoms: every built-in analysis meets what is known, and a wrong copy of it does not."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from functools import cache
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

import interp
from interp.errors import BadInput, ContractError, UnknownName
from interp.runs.checks.checks import check_analysis
from interp.runs.phantoms.calibrate import measured
from interp.runs.phantoms.phantom import Known, rounding
from interp.runs.phantoms.trials import trials_of

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
NAMES = PYPROJECT["project"]["entry-points"]["interp.analyses"]
KEYS = ("layer", "layer_a", "component", "direction", "vocab_id", "position")
"""Keys that say where a row is from; the first that a table has is rolled in a wrong copy."""


@cache
def kind_of(name):
    module, _, attribute = NAMES[name].partition(":")
    return getattr(import_module(module), attribute)


@cache
def tables(name):
    """Each trial of an analysis with its table, measured once."""
    analysis = kind_of(name)()
    return [(trial, measured(trial, analysis)) for trial in trials_of(analysis)]


def misses(name, change):
    """Columns that are missed if every table is changed like this."""
    found = [trial.judge(change(frame.copy())) for trial, frame in tables(name)]
    verdicts = pd.concat(found)
    return set(verdicts[~verdicts["passed"]]["column"])


@pytest.mark.parametrize("name", NAMES)
def test_the_page_has_a_verdict_on_every_built_in_analysis(name):
    """Renew with `python docs/build.py --phantoms`."""
    page = (ROOT / "docs" / "phantoms.md").read_text(encoding="utf-8")
    (rows,) = [part for part in page.split("\n### ")[1:] if part.startswith(f"{name}\n")]
    known = {k.column for trial, _ in tables(name) for k in trial.known}
    assert all(f"| {column} |" in rows for column in known)
    assert "| missed |" not in page


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_what_was_measured_with_its_error(name):
    page = (ROOT / "docs" / "phantoms.md").read_text(encoding="utf-8")
    (rows,) = [part for part in page.split("\n### ")[1:] if part.startswith(f"{name}\n")]
    lines = [line.strip("| ").split(" | ") for line in rows.split("\n") if line.endswith("| met |")]
    assert len(lines) == sum(len(trial.known) for trial, _ in tables(name))
    for *_, known, seen, error, tolerance, _verdict in lines:
        if "not defined" in (known, seen):
            assert known == seen
            continue
        assert float(error) <= 1.1 * float(tolerance.split(",")[0])
        # All are shown with few digits.
        size = max(abs(float(known)), 1e-9)
        assert abs(float(seen) - float(known)) <= 1.6 * float(error) + 1e-5 * size


@pytest.mark.parametrize("name", NAMES)
def test_a_built_in_analysis_meets_all_that_is_known(name):
    found = pd.concat([trial.judge(frame) for trial, frame in tables(name)])
    assert len(found) >= 2
    assert found["passed"].all(), found[~found["passed"]].to_string()


# ---- wrong copies --------------------------------------------------------------------------------


def values_of(name, frame):
    """The numeric columns that the analysis documents and that are no keys."""
    documented = kind_of(name).columns
    keys = {*kind_of(name).keys, "prompt", "position", "layer", "token_id"}
    return [c for c in frame.select_dtypes("number") if c in documented and c not in keys]


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_is_one_per_cent_off_is_caught(name):
    def stretched(frame):
        columns = values_of(name, frame)
        return frame.assign(**{c: frame[c].astype(float) * 1.01 for c in columns})

    assert misses(name, stretched)


@pytest.mark.parametrize("name", NAMES)
def test_each_certified_column_is_caught_alone_if_it_is_a_hundredth_off(name):
    """By twice the tolerance where that of sampling is larger."""
    found = pd.concat([trial.judge(frame) for trial, frame in tables(name)])
    known = {k.column for trial, _ in tables(name) for k in trial.known if k.measured is None}
    for column in known - {"top_token"}:
        off = max(0.01, 2 * found[found["column"] == column]["tolerance"].max())

        def shifted(frame, column=column, off=off):
            return frame.assign(**{column: frame[column].astype(float) + off})

        assert column in misses(name, shifted)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_names_the_next_layer_is_caught(name):
    """Where there are no layers, the key that tells rows apart is rolled instead."""

    def rolled(frame):
        key = next(k for k in KEYS if k in frame)
        last = frame[key].max()
        return frame.assign(**{key: (frame[key] + 1) % (last + 1)})

    assert misses(name, rolled)


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_that_loses_a_row_is_caught(name):
    assert any(missed.startswith("(") for missed in misses(name, lambda frame: frame.iloc[1:]))


class IgnoresTheMask:
    """Shows an analysis every column of the rectangle as a real token."""

    def observe(self, batch):
        every = torch.ones_like(batch.mask)
        known = torch.ones_like(batch.key_mask)
        return super().observe(replace(batch, mask=every, key_mask=known))


@cache
def unmasked(name):
    kind = kind_of(name)
    return type(kind.__name__, (IgnoresTheMask, kind), {"__module__": __name__})()


# Those that give one value per token and read no other token: the framework takes the padding off.
READ_NO_MASK = {
    "massive_activations", "next_token", "norm", "path_length", "rotation",
}  # fmt: skip


@pytest.mark.parametrize("name", [n for n in NAMES if kind_of(n).scope != "weights"])
def test_a_copy_that_ignores_the_mask_is_caught_or_is_the_same(name):
    wrong = unmasked(name)
    if name in READ_NO_MASK:
        for trial, frame in tables(name):
            pd.testing.assert_frame_equal(measured(trial, wrong), frame)
        return
    try:
        verdicts = [trial.judge(measured(trial, wrong)) for trial in trials_of(wrong)]
    except interp.InterpError:
        return  # refused while it ran
    if pd.concat(verdicts)["passed"].all():
        with pytest.raises(ContractError):
            check_analysis(wrong)


# ---- other people's analyses ---------------------------------------------------------------------


class Stretch(interp.Analysis):
    """Growth of the norm over a block."""

    sites = ("resid_pre", "resid_post")
    columns = {"growth": "‖x_{l+1}‖ / ‖x_l‖; ratio"}  # noqa: RUF012

    def observe(self, batch):
        before, after = (interp.geometry.norm(batch[site]) for site in self.sites)
        return {"growth": interp.PerToken(interp.geometry.ratio(after, before))}

    @classmethod
    def phantoms(cls):
        doubled = interp.Phantom(
            "doubling", "Every block doubles the stream.", _doubling, ((1, 2, 3),)
        )
        return [interp.Trial(doubled, [Known("growth", 2.0, rounding(2.0, 64))])]


class Halved(Stretch):
    """A planted fault: the ratio the other way round."""

    def observe(self, batch):
        return {"growth": interp.PerToken(1 / super().observe(batch)["growth"].values)}


class Unknown(interp.Analysis):
    """Names no phantom."""

    sites = ("resid_post",)

    def observe(self, batch):
        return {"size": interp.PerToken(interp.geometry.norm(batch["resid_post"]))}


def _doubling():
    from interp.models import BlockWeights, hand_set
    from interp.models.hand_set import linear

    return hand_set("doubling", np.eye(5), [BlockWeights(mlp=linear(np.eye(5)))] * 2)


def test_a_plug_in_is_measured_on_the_phantoms_that_it_names():
    found = interp.calibrate(Stretch())
    assert found.passed
    assert found.sentence == "stretch: all 1 known columns are met on 1 phantom."
    row = found.frame.iloc[0]
    assert (row["true"], row["measured"], row["rows"], row["verdict"]) == (2.0, 2.0, 6, "met")


def test_a_wrong_plug_in_is_told_with_what_it_measured():
    found = interp.calibrate(Halved())
    assert not found.passed
    assert "halved: 1 of 1 known columns are missed on 1 phantom" in found.sentence
    assert "halved.growth on 'doubling': true 2, measured 0.5, allowed distance" in found.sentence


def test_without_a_phantom_it_is_said_how_to_name_one():
    with pytest.raises(BadInput, match=r"no phantom is known for unknown: return some from the"):
        interp.calibrate(Unknown())
    found = interp.calibrate([Stretch(), Unknown()])
    assert found.without == ("unknown",)
    assert "without a phantom: unknown" in found.notes


def _named(returned, decorate=classmethod):
    """A plug-in whose `phantoms` returns this."""
    return type("Odd", (Stretch,), {"phantoms": decorate(lambda *_: returned)})()


def _doubled():
    (trial,) = Stretch.phantoms()
    return trial


@pytest.mark.parametrize(
    ("returned", "text"),
    [
        (["doubling"], r"Odd.phantoms\(\) returns a list with str; it is a list of interp.Trial"),
        ("doubling", r"Odd.phantoms\(\) returns str; it is a list of interp.Trial"),
        (None, r"Odd.phantoms\(\) returns NoneType; it is a list of interp.Trial"),
        ([Known("x", 1.0, 1.0)], "returns a list with Known; .* holds a Phantom and the list of"),
    ],
    ids=["names", "a name", "nothing", "known"],
)
def test_what_is_no_trial_is_refused(returned, text):
    with pytest.raises(BadInput, match=text):
        interp.calibrate(_named(returned))


def test_one_trial_alone_and_a_method_of_an_instance_are_refused_with_the_fix():
    with pytest.raises(BadInput, match=r"Odd.phantoms\(\) returns one Trial; .*return \[Trial"):
        interp.calibrate(_named(_doubled()))
    with pytest.raises(BadInput, match="a method of an instance; .* write @classmethod above its"):
        interp.calibrate(_named([_doubled()], decorate=lambda function: function))
    assert interp.calibrate(_named(iter([_doubled()]))).passed


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"known": Known("x", 1.0, 1.0)}, r"one Known, not a list of them: write \[Known\(…\)\]"),
        ({"known": []}, "Trial.known is empty; it is a list of interp.Known"),
        ({"known": ["angle"]}, "Trial.known holds 'angle'; it is a list of interp.Known"),
        ({"known": "angle"}, "Trial.known is 'angle', not a list"),
        ({"phantom": "turning"}, "Trial.phantom is 'turning', not an interp.Phantom"),
        ({"parameters": ("fit_first", 1)}, "Trial.parameters is .*; it is pairs such as"),
    ],
    ids=["one", "none", "names", "name", "phantom", "pair"],
)
def test_a_trial_of_wrong_parts_is_refused_where_it_is_made(given, text):
    with pytest.raises(BadInput, match=text):
        replace(_doubled(), **given)


def test_a_parameter_that_the_analysis_lacks_is_named():
    trial = replace(_doubled(), parameters=(("strech", 2),))
    with pytest.raises(UnknownName, match="parameter of odd in Trial.parameters 'strech'"):
        interp.calibrate(_named([trial]))


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        ((0, 1, 2), "Phantom.prompts holds 0; it holds a row of token ids for each prompt"),
        (("the man",), "Phantom.prompts holds 'the man'; it holds a row of token ids"),
        (((0.5, 1),), r"Phantom.prompts holds \(0.5, 1\)"),
        ("the man", "Phantom.prompts is 'the man', not a list"),
    ],
    ids=["one row", "texts", "decimals", "text"],
)
def test_prompts_that_are_no_token_ids_are_refused(prompts, text):
    with pytest.raises(BadInput, match=text):
        replace(_doubled().phantom, prompts=prompts)


def test_a_model_in_place_of_its_function_is_refused():
    with pytest.raises(BadInput, match="Phantom.build is Linear; it is a function that makes"):
        replace(_doubled().phantom, build=torch.nn.Linear(1, 1))


def test_a_wrong_part_of_a_known_is_named_with_analysis_and_phantom():
    wrong = replace(_doubled(), known=[Known("growth", lambda rows: [2.0, 2.0], 1e-6)])
    text = "odd on phantom 'doubling': column 'growth': `true` gives 2 values for 6 rows"
    with pytest.raises(BadInput, match=text):
        interp.calibrate(_named([wrong]))


# ---- verdicts ------------------------------------------------------------------------------------

FRAME = pd.DataFrame({"layer": [0, 1, 2], "x": [1.0, np.nan, 3.0]})


@pytest.mark.parametrize(
    ("true", "passed"),
    [
        ([1, np.nan, 3], True),
        ([1, np.nan, 3.1], True),
        ([1, np.nan, 3.2], False),
        ([1, 2, 3], False),  # not defined where it should be
        ([1, np.nan, np.nan], False),  # defined where it should not be
    ],
)
def test_values_and_gaps_are_compared(true, passed):
    verdict = Known("x", lambda rows: np.array(true, float), 0.11).verdict(FRAME)
    assert verdict["passed"] == passed


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (
            Known("x", [1.0, 2.0], 1.0),
            "`true` gives 2 values for 3 rows of the table",
        ),
        (Known("x", 1.0, lambda r: [1.0] * 4), "`tolerance` gives 4 values for 3 rows"),
        (
            Known("x", lambda r: r["lair"], 1.0),
            r"`true` raised KeyError: 'lair' \(test_ph",
        ),
        (Known("x", lambda r: r.layer / None, 1.0), "`true` raised TypeError: "),
        (Known("x", lambda r: ["a"] * 3, 1.0), "`true` gives no numbers .*: \\['a', 'a', 'a'\\]"),
        (Known("x", 1, 1, measured=lambda r: r["y"]), "`measured` raised KeyError: 'y'"),
        (
            Known("x", 1, 1, where=lambda f: [0]),
            r"`where` gives int64 of shape \(1,\); .* 3 rows",
        ),
        (Known("width", 1, 1), r"no column 'width' \(it has layer, x\)"),
    ],
    ids=["true", "tolerance", "column", "raises", "texts", "measured", "where", "name"],
)
def test_a_mistake_in_what_is_known_is_named(known, text):
    with pytest.raises(BadInput, match=text):
        known.verdict(FRAME)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"column": 3}, "Known names a column, such as 'angle', not 3"),
        ({"true": None}, "`true` is None; it is a number or a function"),
        ({"tolerance": -1.0}, "`tolerance` is -1.0; allowed is 0 or more"),
        ({"tolerance": float("nan")}, "`tolerance` is nan; allowed is 0 or more"),
        ({"where": "layer > 1"}, "`where` is 'layer > 1'; it is a function of the table"),
    ],
    ids=["column", "true", "negative", "nan", "where"],
)
def test_a_known_of_wrong_parts_is_refused_where_it_is_made(given, text):
    with pytest.raises(BadInput, match=text):
        replace(Known("x", 1.0, 1.0), **given)


def test_the_row_that_is_furthest_off_is_told():
    verdict = Known("x", 2.5, 0.1, where=lambda frame: frame["x"].notna()).verdict(FRAME)
    assert (verdict["rows"], verdict["measured"], verdict["distance"]) == (2, 1.0, 1.5)


def test_a_mean_is_compared_as_one_number():
    known = Known("x", 2.0, 1e-9, where=lambda frame: frame["x"].notna(), mean=True)
    assert known.verdict(FRAME)["passed"]


def test_a_layer_that_the_phantom_does_not_have_is_missed():
    values = np.array([1.0, 2.0])
    verdict = Known("x", lambda rows: values[rows["layer"]], 1.0).verdict(FRAME)
    assert not verdict["passed"]


def test_no_row_at_all_is_missed():
    assert not Known("x", 1.0, 1.0).verdict(FRAME.iloc[:0])["passed"]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="the table has no column 'y'"):
        Known("y", 1.0, 1.0).verdict(FRAME)


# ---- the finding ---------------------------------------------------------------------------------


def test_the_finding_draws_saves_and_goes_into_a_report(tmp_path):
    found = interp.calibrate("norm")
    assert found.sentence == "norm: all 3 known columns are met on 2 phantoms."
    assert set(found.tables) == {"calibration", "phantoms"}
    assert len(found.plot().data[0].x) + len(found.plot().data[1].x) == len(found.frame)
    found.save(tmp_path / "out")
    saved = pd.read_parquet(tmp_path / "out" / "calibration.parquet")
    assert set(saved["verdict"]) == {"met"}
    page = interp.run("demo", ["Mary smiled."], "norm", progress=False).report(
        tmp_path / "page.html", findings=[found]
    )
    text = page.read_text()
    assert "norm: all 3 known columns are met on 2 phantoms." in text
    assert 'id="finding-1"' in text


def test_results_are_calibrated_by_the_classes_of_their_analyses():
    from analyses.position_profile import PositionProfile

    results = interp.run("demo", ["Mary smiled."], PositionProfile(max_offset=2), progress=False)
    assert interp.calibrate(results).passed


def test_columns_that_no_phantom_knows_are_named():
    found = interp.calibrate("layer_similarity")
    assert found.open == {"layer_similarity": ("null_sd", "p", "p_bonferroni")}
    assert "no phantom knows these columns of layer_similarity: null_sd" in found.notes[0]


# ---- pairs, experiments, beliefs -----------------------------------------------------------------


def test_models_that_are_rotations_of_each_other_are_the_same_space():
    from interp.runs.phantoms.stream import rotated_pair

    a, b = rotated_pair()
    words = tuple(f"w{i}" for i in range(48))
    found = interp.experiments.compare_spaces(
        *(interp.WordVectors(model.W_E.detach().numpy(), words) for model in (a, b)),
        method=("procrustes", "cka"),
        resamples=9,
    )
    spaces = found.frame.set_index(["method", "score"])["value"]
    assert spaces["procrustes", "residual"] == pytest.approx(0, abs=1e-5)
    assert spaces["cka", "cka"] == pytest.approx(1, abs=1e-6)
    prompts = torch.arange(48).view(6, 8)
    with torch.no_grad():
        (plain, states), (turned, others) = (model.run_with_cache(prompts) for model in (a, b))
    torch.testing.assert_close(plain, turned, rtol=1e-4, atol=1e-3)
    for layer in range(2):
        x, y = (c[f"blocks.{layer}.hook_resid_post"].view(-1, 8).numpy() for c in (states, others))
        assert interp.measures.linear_cka(x, y) == pytest.approx(1, abs=1e-6)
        fitted = interp.measures.procrustes(x, y)
        assert interp.measures.relative_residual(fitted, x, y) < 1e-5
        assert np.abs(x - y).max() > 1


def test_the_depth_of_decision_is_where_the_answer_was_written():
    from interp.runs.phantoms import predictions

    phantom = predictions.answer()
    ids, mask = phantom.tokens
    results = interp.run(phantom.model, ids, "logit_lens", mask=mask, progress=False)
    found = interp.experiments.decision_depth(results["logit_lens"]).tables["tokens"]
    assert found["decision_depth"].to_list() == predictions.DECIDED[found["token_id"]].tolist()


def test_head_types_are_those_that_were_set():
    from interp.runs.phantoms import heads

    phantom = heads.heads()
    ids, mask = phantom.tokens
    results = interp.run(phantom.model, ids, "attention", mask=mask, progress=False)
    found = interp.experiments.head_types(results["attention"]).frame
    names = [heads.HEADS[layer][head] for layer, head in found[["layer", "head"]].to_numpy(int)]
    whole = found["score"] == 1
    # A head that looks at the first token is a sink.
    expected = found["kind"].replace("sink", "first") == names
    assert whole.tolist() == expected.tolist()
    assert expected.sum() == 5


def test_beliefs_follow_bayes_rule():
    from interp.demo import mess3

    letters = mess3.sequences(200, 6, seed=3)
    belief = mess3.beliefs(letters)
    assert np.allclose(belief.sum(-1), 1)
    published = [[0.765, 0.00375, 0.00375], [0.0425, 0.0675, 0.00375], [0.0425, 0.00375, 0.0675]]
    assert np.allclose(mess3.transitions()[0], published, rtol=1e-12)
    # Summed over all ways through the hidden states, one sequence at a time.
    table = mess3.transitions()
    for row in range(5):
        joint = np.full(3, 1 / 3)
        for letter in letters[row]:
            joint = joint @ table[letter]
        assert np.allclose(belief[row, -1], joint / joint.sum(), atol=1e-12)
    # 200 000 letters: every pair as often as the process says, within 5 standard errors.
    long = mess3.sequences(2000, 100, seed=4)
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (long[:, :-1].ravel(), long[:, 1:].ravel()), 1)
    start = np.full(3, 1 / 3)
    expected = np.array([[(start @ table[a] @ table[b]).sum() for b in range(3)] for a in range(3)])
    assert np.abs(pairs / pairs.sum() - expected).max() < 5 * np.sqrt(0.25 / pairs.sum())


def test_the_trained_model_of_mess3_is_near_the_best_possible_and_holds_beliefs():
    from interp.demo import mess3, model_path
    from interp.runs.phantoms.beliefs import fit_to_beliefs

    folder = model_path("mess3")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    model = interp.load_model("mess3")
    letters = mess3.sequences(500, mess3.LENGTH, seed=12)
    ids = torch.from_numpy(mess3.tokens(letters))
    with torch.no_grad():
        log_p = model(ids[:, :-1])[..., :3].log_softmax(-1).double().numpy()
    best = mess3.next_letter(mess3.beliefs(letters)[:, :-1])
    assert np.abs(np.exp(log_p) - best).mean() < 0.02
    fit, untrained = fit_to_beliefs(model), fit_to_beliefs(interp.random_copy(model))
    assert fit["r2"].iloc[-1] > 0.97 > untrained["r2"].iloc[-1]
    assert fit["shuffled"].max() < 0.05
    with pytest.raises(BadInput, match="rows=5: a fit and its test take 20 sequences or more"):
        fit_to_beliefs(model, rows=5)


# ---- the command ---------------------------------------------------------------------------------


def test_the_command_prints_verdicts_and_ends_with_3_where_one_is_missed(monkeypatch, tmp_path):
    from typer.testing import CliRunner

    from interp.cli import app
    from interp.runs.phantoms import trials

    def call(*words):
        return CliRunner().invoke(app, ["calibrate", *map(str, words)])

    done = call("norm", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "norm: all 3 known columns are met on 2 phantoms." in done.output
    assert (tmp_path / "out" / "report.html").is_file()
    assert '"verdict": "met"' in call("norm", "--json").output
    (right, *_) = trials.BUILT_IN["norm"]
    wrong = dict(trials.BUILT_IN, norm=(lambda: _stretched(right()),))
    monkeypatch.setattr("interp.runs.phantoms.trials.BUILT_IN", wrong)
    done = call("norm")
    assert done.exit_code == 3
    assert "1 of 1 known columns are missed" in done.output
    assert call().exit_code == call("norm", "--all").exit_code == 2


def _stretched(trial):
    return interp.Trial(trial.phantom, [Known("norm", 0.0, 1e-3)])


def test_a_name_that_is_not_there_has_its_nearest():
    with pytest.raises(interp.errors.UnknownName, match="did you mean 'rotation'"):
        interp.calibrate("rotatoin")


def test_the_report_of_saved_results_can_have_the_verdicts(tmp_path):
    from typer.testing import CliRunner

    from interp.cli import app

    folder = interp.run("demo", ["Mary smiled."], "norm", progress=False).save(tmp_path / "out")
    done = CliRunner().invoke(app, ["report", str(folder), "--phantoms"])
    assert done.exit_code == 0, done.output
    text = (folder / "report.html").read_text()
    assert "norm: all 3 known columns are met on 2 phantoms." in text
    assert "straight path" in text


def test_of_all_a_plug_in_that_cannot_be_loaded_is_told_and_ends_with_1(monkeypatch):
    from importlib.metadata import EntryPoint

    from typer.testing import CliRunner

    from interp.cli import app
    from interp.contract import registry

    entries = {
        name: [EntryPoint(name, value, registry.GROUP)]
        for name, value in (("norm", NAMES["norm"]), ("gone", "no_such_package.gone:Gone"))
    }
    monkeypatch.setattr(registry, "registered", lambda: entries)
    done = CliRunner().invoke(app, ["calibrate", "--all"])
    assert done.exit_code == 1
    assert "norm: all 3 known columns are met on 2 phantoms." in done.output
    assert "note: not measured: analysis 'gone' (no_such_package.gone:Gone" in done.output
