"""Measurement of a corpus run: rate, peak memory over time, computed cost of a billion tokens.

    python benchmarks/corpus.py --tokens 10_000_000 --workers 2 --out /tmp/corpus-benchmark
    python benchmarks/corpus.py --costs                      # the table alone, from assumptions

Writes the demo language as .jsonl up to the requested number of tokens, runs `interp.run_corpus`
in a process of its own, samples the memory of that process and its workers, prints JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from interp.contract.leaves import Rows
from interp.demo import MODELS, generate
from interp.prompts.prompts import Prompts
from interp.runs.corpus.documents import Chunks
from interp.runs.corpus.rows import RowWriter, TokenTable, Vocabulary

MODEL = "demo-llama"
BATCH = 20_000  # documents that are generated at once
SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import interp
if __name__ == "__main__":
    run = interp.run_corpus(progress=False, **json.loads(sys.argv[1]))
    keys = ("documents", "tokens", "seconds", "measured")
    print(json.dumps({k: getattr(run, k) for k in keys} | {"failures": len(run.failures)}))
"""


def corpus(path: Path, tokens: int) -> int:
    """Write documents of the demo language up to `tokens` tokens; returns their exact number."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODELS[MODEL])
    total, seed = 0, 1
    with path.open("w", encoding="utf-8") as stream:
        while total < tokens:
            texts = [document.text for document in generate(BATCH, seed=seed)]
            for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
                if total >= tokens:
                    break
                stream.write(json.dumps({"text": text}) + "\n")
                total += len(ids) + 1  # BOS
            seed += 1
    return total


def resident(pid: int) -> Iterator[int]:
    """Bytes of memory of a process and of each of its descendants."""
    import psutil

    try:
        process = psutil.Process(pid)
        for each in [process, *process.children(recursive=True)]:
            yield each.memory_info().rss
    except psutil.NoSuchProcess:
        return


def watch(process: subprocess.Popen[str], every: float) -> list[tuple[float, float]]:
    """Samples (seconds, megabytes) while the process runs."""
    # Sampled, because the system keeps a peak per process only, and workers come and go.
    samples: list[tuple[float, float]] = []
    began = time.monotonic()

    def sample() -> None:
        while process.poll() is None:
            samples.append((time.monotonic() - began, sum(resident(process.pid)) / 1e6))
            time.sleep(every)

    thread = threading.Thread(target=sample)
    thread.start()
    thread.join()
    return samples


def measure(tokens: int, workers: int, keep: str, out: Path, analyses: list[str]) -> dict:
    """Run the corpus, and return its rate and its peak memory in tenths of the time."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "corpus.jsonl"
    options = {
        "model": MODEL, "source": str(path), "analyses": analyses, "out": str(out / "run"),
        "keep": keep, "workers": workers, "overwrite": (out / "run").exists(),
    }  # fmt: skip
    written = corpus(path, tokens)
    script = out / "run.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), json.dumps(options)], stdout=subprocess.PIPE, text=True
    )
    samples = np.asarray(watch(process, 0.5))
    stdout, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    done = json.loads(stdout)
    tenths = np.array_split(samples[:, 1], 10)
    bytes_out = sum(p.stat().st_size for p in (out / "run").rglob("*") if p.is_file())
    return {
        "tokens": written,
        "corpus_mb": round(path.stat().st_size / 1e6, 1),
        "output_mb": round(bytes_out / 1e6, 1),
        "workers": workers,
        "keep": keep,
        "analyses": analyses,
        **done,
        "tokens_per_second": round(done["measured"] / done["seconds"]),
        "peak_mb": round(float(samples[:, 1].max())),
        "peak_mb_by_tenth_of_the_time": [round(float(part.max())) for part in tenths],
    }


def writer_rate(layers: int = 48, windows: int = 3) -> dict:
    """Rows per second of the Parquet export alone, on five geometry columns."""
    random, n, length = np.random.default_rng(0), 256, 128
    none = (None,) * n
    prompts = Prompts(
        tuple(random.integers(0, 50_257, length) for _ in range(n)),
        tuple(np.zeros(length, bool) for _ in range(n)),
        none, none, ((),) * n,
    )  # fmt: skip
    ids, places = np.arange(n), np.tile(np.arange(length), n)
    chunks = Chunks(
        prompts, ids, ids, ids * 0, ("",) * n, ids * length, places, np.zeros(n * length, bool)
    )
    values = (random.standard_normal(n * length) * 40).astype(np.float32)
    columns = ("angle", "attn_angle", "mlp_angle", "angular_path", "turning")
    leaf = Rows.of(np.repeat(ids, length), places, values)
    state = {("", layer): dict.fromkeys(columns, leaf) for layer in range(layers)}
    vocabulary = Vocabulary(lambda wanted: {i: f"token {i}" for i in wanted})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        writer = RowWriter(path, (), vocabulary, {})
        began = time.perf_counter()
        for _ in range(windows):
            writer.write(state, TokenTable(chunks, (), vocabulary))
        writer.close()
        seconds = time.perf_counter() - began
        size = path.stat().st_size
    return {
        "rows": writer.rows,
        "rows_per_second": round(writer.rows / seconds),
        "bytes_per_row": round(size / writer.rows, 1),
    }


# ---- a billion tokens ------------------------------------------------------------------------

PARAMETERS = {"GPT-2-XL": (1.56e9, 48), "8B": (8.03e9, 32)}
HARDWARE = {  # assumption: floating-point operations per second that a forward pass reaches
    "one H100-class GPU at 40 % of 989 TFLOP/s": 0.4 * 989e12,
    "one A100-class GPU at 40 % of 312 TFLOP/s": 0.4 * 312e12,
    "32 CPU cores at 30 GFLOP/s each": 32 * 30e9,
}


def costs(tokens: float, rows_per_second: float, bytes_per_row: float) -> list[dict]:
    """Hours and bytes for a corpus: one forward pass, 2 operations per parameter and token.

    The analyses are not included: geometry is a few operations per number of the stream, the lens
    is 2 · width · vocabulary per layer and token, often more than the model.
    """
    out = []
    for model, (parameters, layers) in PARAMETERS.items():
        rows = tokens * layers
        for hardware, rate in HARDWARE.items():
            out.append(
                {
                    "model": model,
                    "hardware": hardware,
                    "forward_hours": round(2 * parameters * tokens / rate / 3600, 1),
                    "rows": rows,
                    "export_hours_one_core": round(rows / rows_per_second / 3600, 1),
                    "parquet_tb": round(rows * bytes_per_row / 1e12, 2),
                }
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", default="summary", choices=("summary", "tokens"))
    parser.add_argument("--analyses", default="rotation,path_length")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--costs", action="store_true", help="the writer's rate and the costs only")
    asked = parser.parse_args()
    found: dict = {"writer": writer_rate()}
    if not asked.costs:
        with tempfile.TemporaryDirectory() as folder:
            out = asked.out or Path(folder)
            names = asked.analyses.split(",")
            found["run"] = measure(asked.tokens, asked.workers, asked.keep, out, names)
    rate, size = found["writer"]["rows_per_second"], found["writer"]["bytes_per_row"]
    found["billion_tokens"] = costs(1e9, rate, size)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
