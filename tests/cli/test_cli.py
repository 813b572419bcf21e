"""The command line as a user types it: output, files, exit codes, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import interp
from interp.cli.app import app

FIXED = {
    "rotation": ["angle", "attn_angle", "mlp_angle", "turning"],
    "path_length": [
        "norm", "norm_after", "step", "relative_step", "path", "chord", "tortuosity",
        "attn_share", "mlp_share", "attn_norm", "mlp_norm", "attn_mlp_cos",
    ],
    "logit_lens": [
        "log_prob", "rank", "entropy", "kl_to_final", "js_to_final", "tv_to_final", "top_token",
        "top_prob", "agrees",
    ],
    "attention": [
        "entropy", "distance", "abs_distance", "sink", "previous", "duplicate", "induction",
        "row_sum",
    ],
}  # fmt: skip
INDEX = ["prompt", "position", "token", "token_id", "layer", "special"]


def invoke(*arguments: str) -> str:
    """Run a command in this process; errors of the library surface as they are."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def shell(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a program of its own."""
    command = [sys.executable, "-c", "from interp.cli import main; main()", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """What `interp demo` writes."""
    folder = tmp_path_factory.mktemp("cli") / "demo"
    text = invoke("demo", "--out", str(folder), "--quiet")
    assert str(folder / "report.html") in text.replace("\n", "")
    return folder


def test_demo_writes_tables_and_report(demo):
    assert (demo / "report.html").stat().st_size < 5_000_000
    results = interp.load(demo)
    page = (demo / "report.html").read_text("utf-8")
    assert results.control is not None
    assert "the model freshly initialised, over the same prompts" in page
    assert "leaves out the numbers of the untrained copy, which the figures and tables have" in page
    for name, columns in FIXED.items():
        frame = results[name].frame
        assert [c for c in INDEX if c not in frame] == []
        assert [c for c in columns if c not in frame] == []
        assert set(frame.columns) >= {"role"}


def test_the_folder_of_the_demo_is_made_anew_but_nobody_elses(tmp_path, monkeypatch):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "interp.cli.demo.show",
        lambda model, folder, **options: (asked.append((folder, options)), []),
    )
    monkeypatch.setattr("interp.cli.run.finish", lambda *_: None)
    for typed in (["demo"], ["demo", "--out", "mine", "--no-control"]):
        CliRunner().invoke(app, typed, catch_exceptions=False)
    assert [(str(folder), o["overwrite"], o["control"]) for folder, o in asked] == [
        ("interp-demo", True, "random-init"),
        ("mine", False, None),
    ]


def test_demo_refuses_to_overwrite(demo):
    done = shell("demo", "--out", str(demo))
    assert done.returncode == 2
    assert "exists; choose another or allow it to be replaced" in done.stderr
    assert "Traceback" not in done.stderr


def test_tables_can_be_read_by_anyone(demo):
    frame = pd.read_parquet(demo / "rotation.parquet")
    assert frame["angle"].between(0, 180).all()


def test_compare_prints_and_writes(demo, tmp_path):
    text = invoke("compare", str(demo), "--csv", str(tmp_path / "her.csv"))
    assert "target" in text
    table = pd.read_csv(tmp_path / "her.csv")
    assert {"layer", "welch_p_bh", "welch_p_holm", "student_p", "hedges_g"} <= set(table)
    asked = ["compare", str(demo), "--json", "--out", str(tmp_path / "page")]
    rows = json.loads(invoke(*asked))["tables"]["compare"]
    assert (tmp_path / "page" / "report.html").is_file()
    assert (tmp_path / "page" / "compare.parquet").is_file()
    assert [row["layer"] for row in rows] == table["layer"].tolist()


def test_compare_of_an_unknown_column(demo):
    done = shell("compare", str(demo), "--value", "angel")
    assert done.returncode == 2
    assert "'angel'" in done.stderr
    assert "did you mean 'angle'" in done.stderr


def test_compare_takes_the_only_table_that_has_the_column(demo):
    asked = ("compare", str(demo), "--value", "tortuosity", "--resamples", "99", "--json")
    found = invoke(*asked)
    assert found == invoke(*asked, "--analysis", "path_length")
    done = shell("compare", str(demo), "--value", "entropy")
    assert done.returncode != 0
    assert "'entropy' is a column of 2 tables: " in done.stderr
    assert "choose one: --analysis " in done.stderr


def test_report_again(demo, tmp_path):
    invoke("report", str(demo), "--out", str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_run_on_a_file_with_a_target(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("Mary smiled. John thanked her.\nAnna slept. Tom greeted her.\n")
    out = tmp_path / "out"
    text = invoke(
        "run", "--model", "demo-llama", "--prompts", str(prompts), "--analyses", "rotation",
        "--target", "her", "--out", str(out), "--json", "--quiet",
    )  # fmt: skip
    written = json.loads(text)
    assert written["tables"]["rotation"] > 0
    frame = interp.load(out)["rotation"].frame
    assert frame.query("role == 'target'")["token"].unique().tolist() == [" her"]


def test_a_chosen_token_is_followed_and_parameters_are_set(tmp_path):
    asked = ("run", "-m", "demo-llama", "-p", "her", "-a", "next_token,random_pairs,attention")
    options = ("--token", " her", "--set", "random_pairs.special=true", "--set", "attention.maps=1")
    invoke(*asked, *options, "--out", str(tmp_path / "her"), "--quiet")
    invoke(*asked, "--out", str(tmp_path / "next"), "--quiet")
    her, following = (interp.load(tmp_path / name) for name in ("her", "next"))
    assert her["attention"].analysis.parameters() == {"maps": 1}
    assert len(her["attention"].examples("pattern")["", 0]) == 1
    assert any("is token" in note for note in her.provenance["prompts"]["notes"])
    index = ["prompt", "position"]
    a, b = (r["next_token"].frame.set_index(index) for r in (her, following))
    assert a["log_prob"].notna().all(), "every position has this target, the last one too"
    before = b.groupby("prompt")["token"].shift(-1) == " her"
    assert before.sum() >= 54
    np.testing.assert_allclose(a.loc[before, "log_prob"], b.loc[before, "log_prob"], atol=1e-5)
    assert (a.loc[~before, "log_prob"] != b.loc[~before, "log_prob"]).mean() > 0.9
    ordinary = following["random_pairs"].frame["angle"].mean()
    assert her["random_pairs"].frame["angle"].mean() != ordinary


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("attention.mpas=1", "unknown parameter of attention 'mpas'; did you mean 'maps'"),
        ("attention.maps=two", "attention.maps=two; expected a value like its default, 2"),
        ("attention.maps=true", "attention.maps=true; expected a value like its default, 2"),
        ("atention.maps=1", "is of no analysis asked for: attention"),
        ("maps=1", "allowed is NAME.PARAMETER=VALUE"),
        ("attention.maps", "allowed is NAME.PARAMETER=VALUE"),
    ],
)
def test_settings_that_cannot_be_are_refused(setting, message, tmp_path):
    out = str(tmp_path / "out")
    asked = ["run", "-p", "her", "-a", "attention", "--set", setting, "--out", out]
    with pytest.raises(interp.InterpError) as seen:
        CliRunner().invoke(app, asked, catch_exceptions=False)
    assert message in str(seen.value)
    assert list(tmp_path.iterdir()) == []


def test_summary_of_a_run(tmp_path):
    out = tmp_path / "out"
    invoke(
        "run", "--prompts", "demo", "--analyses", "rotation", "--keep", "summary", "--by", "pos",
        "--out", str(out), "--quiet",
    )  # fmt: skip
    frame = interp.load(out)["rotation"].frame
    assert {"NOUN", "VERB"} <= set(frame["pos"])
    assert "" not in set(frame["pos"]), "tokens without the label belong to no group"


def test_a_refused_run_writes_nothing(tmp_path):
    done = shell("run", "--prompts", "nowhere.txt", "--out", str(tmp_path / "out"), cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere.txt" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_analysis(tmp_path):
    done = shell("run", "--prompts", "her", "--analyses", "rotatoin", cwd=tmp_path)
    assert done.returncode == 2
    assert "did you mean 'rotation'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_inspect_prints_facts_and_json():
    assert "unembed(ln_final(x))" in invoke("inspect", "demo")
    facts = json.loads(invoke("inspect", "demo", "--json"))
    assert facts["stacks"][0]["closes"] is True


def test_list_names_every_analysis_without_importing_torch():
    rows = {row["name"]: row for row in json.loads(invoke("list", "--json"))}
    assert set(FIXED) <= set(rows)
    assert rows["rotation"]["scope"] == "layer"
    assert "resid_pre" in rows["rotation"]["sites"]
    assert "degrees" in rows["rotation"]["about"]
    code = (
        "import sys; from interp.cli import app; from typer.testing import CliRunner;"
        "CliRunner().invoke(app, ['list']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_check_passes_every_installed_analysis():
    assert "rotation" in invoke("check", "--all")


def test_check_wants_one_or_all():
    assert shell("check").returncode == 2


def test_help_names_the_commands():
    text = invoke("--help")
    for command in ("demo", "run", "inspect", "list", "report", "compare", "check"):
        assert command in text
