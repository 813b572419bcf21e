"""`interp run --corpus` as a user types it: files, exit codes, messages."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from corpus_help import documents, write_jsonl
from typer.testing import CliRunner

import interp
from interp.cli.app import app


def invoke(*arguments: str):
    return CliRunner().invoke(app, ["run", "--quiet", *map(str, arguments)])


def test_a_corpus_run_writes_a_summary_and_a_report_and_resumes(tmp_path):
    rows: list = documents(12)
    rows[4] = "{broken"
    corpus, out = write_jsonl(tmp_path / "c.jsonl", rows), tmp_path / "out"
    command = [
        "--corpus", corpus, "-m", "demo-llama", "-a", "rotation", "--by", "kind",
        "--shard-documents", 4, "--out", out,
    ]  # fmt: skip
    done = invoke(*command)
    assert done.exit_code == 4, done.output
    assert "1 failure, listed in" in done.output.replace("\n", " ")
    assert "document 4" in done.output
    assert (out / "report.html").is_file()
    assert {"a", "b", "c"} == set(interp.load(out)["rotation"].frame["kind"])
    refused = invoke(*command)
    assert isinstance(refused.exception, interp.BadInput)
    again = invoke(*command, "--resume", "--json")
    facts = json.loads(again.stdout)
    assert again.exit_code == 4
    assert facts["measured"] == 0
    assert facts["documents"] == 12
    report = CliRunner().invoke(app, ["report", str(out), "--out", str(tmp_path / "r.html")])
    assert report.exit_code == 0, report.output
    compared = CliRunner().invoke(
        app, ["compare", str(out), "--by", "kind", "--a", "a", "--b", "b"]
    )
    assert compared.exit_code == 0, compared.output
    said = " ".join(compared.output.split())
    assert "layers differ (clustered" in said
    assert "tokens are taken as independent" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompts", "her", "--corpus", "x.jsonl"], "--corpus (any size), not both"),
        (["--prompts", "her", "--resume"], "--resume: only with --corpus"),
        (["--prompts", "her", "--workers", "2"], "--workers: only with --corpus"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, words):
    done = invoke(*arguments)
    assert isinstance(done.exception, interp.BadInput)
    assert words in str(done.exception)


def test_a_document_without_text_is_named_by_its_own_number(tmp_path):
    rows: list = documents(5)
    rows[1]["text"], rows[3]["text"] = "", None
    corpus = write_jsonl(tmp_path / "c.jsonl", rows)
    done = invoke("--corpus", corpus, "-a", "norm", "--out", tmp_path / "out")
    assert done.exit_code == 4, done.output
    said = " ".join(done.output.split())
    assert "2 failures, listed in" in said
    assert "the first: document 1 (" in said
    assert "): the document is an empty string" in said
    told = " ".join(pd.read_parquet(tmp_path / "out" / "failures.parquet")["reason"])
    assert "prompt 0" not in told
    assert "list of rows" not in told
