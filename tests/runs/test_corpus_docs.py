"""The examples of docs/corpus.md are run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from corpus_help import documents, write_jsonl

import interp
from analyses.rotation import Rotation

DOCS = Path(interp.__file__).parents[1] / "docs" / "corpus.md"


def test_the_duckdb_example_gives_the_means_of_the_rows(gpt2, tmp_path, monkeypatch):
    pytest.importorskip("duckdb", reason="duckdb is not installed (interp-stream[scale])")
    corpus = write_jsonl(tmp_path / "c.jsonl", documents(30))
    run = interp.run_corpus(
        gpt2, corpus, Rotation, out=tmp_path / "rows", keep="tokens", shard_documents=9,
        progress=False,
    )  # fmt: skip
    (example,) = re.findall(r"```python\n(import duckdb.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    *lines, last = example.strip().split("\n\n")
    names: dict = {}
    exec("\n".join(lines), names)  # noqa: S102  the documentation's own code
    found = eval(last, names).set_index("layer")  # noqa: S307
    rows = run.open()["rotation"].frame
    rows = rows[~rows["special"]].groupby("layer")["angle"]
    assert found["n"].tolist() == rows.count().tolist()
    assert found["mean"].tolist() == pytest.approx(rows.mean().tolist(), rel=1e-5)
    assert found["q95"].tolist() == pytest.approx(rows.quantile(0.95).tolist(), rel=1e-5)


def test_every_column_of_the_schema_is_described(gpt2, tmp_path):
    run = interp.run_corpus(
        gpt2, documents(12), ["rotation", "logit_lens"], out=tmp_path / "rows", keep="tokens",
        labels=["kind"], progress=False,
    )  # fmt: skip
    text = DOCS.read_text("utf-8")
    for table in run.open().values():
        schema = table.dataset.schema
        assert schema.metadata[b"interp.schema"] == b"1"
        for name in schema.names:
            described = f"| `{name}`" in text or f", `{name}` |" in text
            assert described or name in table.columns or name == "kind", name
