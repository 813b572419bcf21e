"""Tokens per second of corpus runs, as shares of what the model alone needs on the same batches.

    python -m benchmarks.corpus_rates              # a section of docs/benchmarks.md

One process and one thread: the bare forward on the batches that a run fed, the same with the bare
products of a lens, and whole runs of `run_corpus`: reading, tokenising, measuring, writing. Then
the rate of two worker processes against twice that of one; their start is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

import interp
from benchmarks import startup
from benchmarks.corpus import SCRIPT, watch
from benchmarks.ways import _product
from interp.contract.tokens import Tokens
from interp.runs.feed import Feeder

SHAPE = {"layers": 12, "width": 768, "inner": 2048, "heads": 12, "groups": 12, "vocab": 50_257}
SENTENCES = 8
"""Of a document."""
BLOCK = (512, 1024)
FORWARD, PRODUCTS = "bare forward with logits", "bare products of the lens"
GEOMETRY, LENS, EXPORT = "geometry, summary", "lens, summary", "geometry, rows to Parquet"
RUNS = {
    GEOMETRY: (("rotation", "path_length"), "summary"),
    LENS: (("logit_lens",), "summary"),
    EXPORT: (("rotation", "path_length"), "tokens"),
}
WORKERS = "two worker processes, to twice one"
LIMITS = {GEOMETRY: 0.9, LENS: 0.8, EXPORT: 0.8, WORKERS: 0.9}


def measure(tokens: int = 5_000, rounds: int = 3, shape: Mapping[str, int] = SHAPE) -> dict:
    """Processor seconds by way, one per round, and the rates of one and two workers.

    `tokens`: of the corpus, about; three times as many for the workers.
    """
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        path = startup.random_model(place / "model", shape)
        model = interp.load_model(path)
        corpus = _corpus(place / "corpus.jsonl", model.tokenizer, tokens)
        batches = _fed(model, corpus, place / "first")
        seconds: dict[str, list[float]] = {name: [] for name in (FORWARD, PRODUCTS, *RUNS)}
        for number in range(rounds):
            for name in seconds:
                began = time.process_time()
                if name == FORWARD:
                    _forward(model, batches)
                elif name == PRODUCTS:
                    _products(model, batches)
                else:
                    out = place / f"{name} {number}"
                    _run(model, corpus, out, *RUNS[name])
                seconds[name].append(time.process_time() - began)
        del model
        rates = _rates(path, place, tokens, min(rounds, 2))
    return {
        "tokens": sum(int(batch.mask.sum()) for batch in batches),
        "seconds": seconds,
        "rates": rates,
        "cores": os.cpu_count(),
    }


def _corpus(path: Path, tokenizer: Any, tokens: int) -> Path:
    """Documents of a few sentences each, up to so many tokens."""
    from interp.prompts.sources import read

    texts = read("her", text_column="text", language="english").texts or ()
    documents = [" ".join(texts[i : i + SENTENCES]) for i in range(0, len(texts), SENTENCES)]
    total, number = 0, 0
    with path.open("w", encoding="utf-8") as stream:
        while total < tokens:
            text = f"{number} {documents[number % len(documents)]}"
            stream.write(json.dumps({"text": text}) + "\n")
            total, number = total + len(tokenizer(text)["input_ids"]), number + 1
    return path


def _run(model: Any, corpus: Path, out: Path, analyses: tuple[str, ...], keep: str) -> None:
    interp.run_corpus(model, str(corpus), analyses, out=out, keep=keep, progress=False)


def _fed(model: Any, corpus: Path, out: Path) -> list[Tokens]:
    """The batches that a run of the corpus feeds."""
    fed: list[Tokens] = []
    feed = Feeder.feed

    def kept(self: Feeder, batch: Tokens) -> Any:
        fed.append(batch)
        return feed(self, batch)

    Feeder.feed = kept  # type: ignore[method-assign]
    try:
        _run(model, corpus, out, *RUNS[GEOMETRY])
    finally:
        Feeder.feed = feed  # type: ignore[method-assign]
    return fed


def _forward(model: Any, batches: list[Tokens]) -> None:
    for batch in batches:
        padded = not bool(batch.mask.all())
        model(batch.tokens, **({"attention_mask": batch.mask.long()} if padded else {}))


def _products(model: Any, batches: list[Tokens]) -> None:
    weight: Tensor = interp.inspect(model).readout.weight
    for batch in batches:
        rows = model.cfg.n_layers * int(batch.mask.sum())
        _product(torch.zeros(rows, weight.shape[1]), weight, *BLOCK)()


def _rates(model: Path, place: Path, tokens: int, rounds: int) -> dict[str, list[float]]:
    """Tokens per second of one and two worker processes in turns, by number, one per round."""
    rates: dict[str, list[float]] = {"1": [], "2": []}
    for number in range(rounds):
        own = place / f"round {number}"
        own.mkdir()
        for workers, found in rates.items():
            found.append(_rate_of_workers(model, own, tokens, int(workers)))
    return rates


def _rate_of_workers(model: Path, place: Path, tokens: int, workers: int) -> float:
    """Tokens per second of the arithmetic alone: of a longer corpus, beyond a shorter one."""
    found = [_timed_run(model, place, size, workers) for size in (tokens, 3 * tokens)]
    (few, short), (many, long) = found
    return (many - few) / max(long - short, 1e-9)


def _timed_run(model: Path, place: Path, tokens: int, workers: int) -> tuple[int, float]:
    """Tokens and seconds of a run in a process of its own."""
    from transformers import AutoTokenizer

    corpus = _corpus(
        place / f"{tokens} {workers}.jsonl", AutoTokenizer.from_pretrained(model), tokens
    )
    documents = sum(1 for _ in corpus.open(encoding="utf-8"))
    options = {
        "model": str(model), "source": str(corpus), "analyses": ["rotation", "path_length"],
        "out": str(place / f"run {tokens} {workers}"), "workers": workers, "threads": 1,
        "shard_documents": max(1, documents // 12),
    }  # fmt: skip
    script = place / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(options)], stdout=subprocess.PIPE, text=True
    )
    watch(process, 0.5)
    done = json.loads(process.communicate()[0])
    return int(done["measured"]), float(done["seconds"])


def values(found: Mapping[str, Any]) -> dict[str, float]:
    """The measured value of every limit: medians of ratios within a round, and of the workers."""
    seconds = found["seconds"]
    bare = list(zip(seconds[FORWARD], seconds[PRODUCTS], strict=True))
    out = {}
    for name in RUNS:
        base = [f + p if name == LENS else f for f, p in bare]
        out[name] = median(b / s for b, s in zip(base, seconds[name], strict=True))
    rates = zip(found["rates"]["1"], found["rates"]["2"], strict=True)
    return out | {WORKERS: median(two / (2 * one) for one, two in rates)}


def section(found: Mapping[str, Any]) -> str:
    """The section of docs/benchmarks.md: shares with their limits, and the seconds behind them."""
    rows = ["| corpus run, rate as a share | limit | measured | |", "|---|---|---|---|"]
    for name, value in values(found).items():
        verdict = "met" if value >= LIMITS[name] else "**missed**"
        rows.append(f"| {name} | ≥ {LIMITS[name]:g} | {value:.2f} | {verdict} |")
    table = ["| way | processor seconds | tokens per second |", "|---|---|---|"]
    for name, taken in found["seconds"].items():
        rate = found["tokens"] / median(taken)
        table.append(f"| {name} | {median(taken):.1f} | {rate:,.0f} |")
    return "\n".join(
        [
            "## Corpora",
            "",
            f"{found['tokens']:,} tokens in documents of {SENTENCES} sentences, a model of "
            f"{SHAPE['layers']} blocks, width {SHAPE['width']} and",
            f"vocabulary {SHAPE['vocab']:,} with random weights, one thread. The share is the time "
            "of the bare forward on the same",
            "batches (for the lens that of its bare products added) over the time of the whole "
            "run. Workers have one thread",
            f"each, on {found['cores']} cores; their start is not counted.",
            "",
            *rows,
            "",
            *table,
        ]
    )


def main() -> None:
    """Measure and print the section, or the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print the numbers")
    asked = parser.parse_args()
    found = measure(asked.tokens, asked.rounds)
    print(json.dumps(found, indent=1) if asked.json else section(found))


if __name__ == "__main__":
    main()
