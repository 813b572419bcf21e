"""Measurement of the embedding space of a large vocabulary: time and peak memory of every stage.

    python -m benchmarks.embedding                       # 50,257 words of width 768, as GPT-2 small
    python -m benchmarks.embedding --words 5000 --resamples 2

An untrained model of that shape has no structure in its vectors, so structured vectors are made:
groups of words around a few hundred centres of low entropy dimension, some words in no group, one
common mean. Runs on one thread and prints JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import interp
from benchmarks.shapes import SHAPES, bridge

GROUPS = 300
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def structured(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `[n, d]` in float32, and the group of each; −1 for the fifth without a group.

    Centres lie along directions whose variance falls as 1/k; groups differ in size; the common mean
    is as long as the typical distance from it.
    """
    random = np.random.default_rng(seed)
    directions = np.linalg.qr(random.standard_normal((d, min(d, 120))))[0].T
    falling = 1 / np.sqrt(np.arange(1, len(directions) + 1))
    centres = random.standard_normal((GROUPS, len(directions))) * falling
    sizes = random.dirichlet(np.full(GROUPS, 2.0))
    group = random.choice(GROUPS, n, p=sizes)
    alone = random.random(n) < 0.2
    inside = centres[group] + 0.15 * random.standard_normal((n, len(directions))) * falling
    loose = random.standard_normal((n, len(directions))) * falling
    vectors = np.where(alone[:, None], loose, inside) @ directions
    vectors += 0.02 * random.standard_normal((n, d))
    mean = random.standard_normal(d)
    vectors += mean / np.linalg.norm(mean) * np.linalg.norm(vectors, axis=1).mean()
    return (0.1 * vectors).astype(np.float32), np.where(alone, -1, group)


def model_of(vectors: np.ndarray) -> Any:
    """A model of the shape of GPT-2 small with these vectors as its (tied) embedding."""
    n, d = vectors.shape
    shape = replace(SHAPES["GPT-2 small"], width=d, heads=max(1, d // 64), vocab=n)
    model = bridge(shape, 64, "cpu", torch.float32)
    with torch.no_grad():
        model.W_E.copy_(torch.from_numpy(vectors))
    return model


@contextmanager
def measured(stages: dict[str, Any], name: str) -> Iterator[dict[str, Any]]:
    """Measure seconds of the clock and of the processor, and the peak memory of a block."""
    # Linux resets the peak of the process on this write, so that each stage has its own.
    if RESET.exists():
        RESET.write_text("5")
    facts: dict[str, Any] = {}
    wall, processor = time.monotonic(), time.process_time()
    yield facts
    facts["seconds"] = round(time.monotonic() - wall, 1)
    facts["processor_seconds"] = round(time.process_time() - processor, 1)
    facts["peak_mb"] = round(peak())
    stages[name] = facts
    print(json.dumps({name: facts}), flush=True)


def peak() -> float:
    """Peak memory in megabytes, since the last reset on Linux, else of the whole process."""
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return float(lines["VmHWM"].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def stages_of(
    space: interp.WordVectors, group: np.ndarray, resamples: int
) -> dict[str, Callable[[], dict[str, Any]]]:
    """The stages of work on a space of words; each function returns its findings."""
    some = list(space.words[:: max(1, len(space.words) // 300)])[:300]
    word = space.words[int(np.flatnonzero(group >= 0)[0])]

    def near() -> dict[str, Any]:
        found = space.nearest(word, 10)["index"].to_numpy()
        return {"of_its_group": float((group[found] == group[space.find(word)]).mean())}

    def graph() -> dict[str, Any]:
        seen = space.centred().graph(some, 0.5)
        return {"edges": len(seen.edges), "by_chance": round(seen.random_edges, 2)}

    def picture(seen: Any) -> dict[str, Any]:
        trust = {"trustworthiness": round(seen.trustworthiness, 3)}
        return trust | {"shuffled": round(seen.shuffled, 3), "method": seen.method}

    def clusters() -> dict[str, Any]:
        from sklearn.metrics import adjusted_rand_score

        seen = space.clusters(resamples=resamples)
        known = (seen.labels >= 0) & (group >= 0)
        again = seen.stability[np.isfinite(seen.stability)]
        return {
            "clusters": seen.n,
            "noise": round(seen.noise, 3),
            "rand_with_the_groups": round(adjusted_rand_score(group[known], seen.labels[known]), 3),
            "stability": round(float(again.mean()), 3) if len(again) else None,
            "random_clusters": seen.random_clusters,
        }

    return {
        "nearest neighbours of a word": near,
        "cosines of 300 words": lambda: {"pairs": space.cosines(some).size},
        "graph of 300 words": graph,
        "PCA, trustworthiness included": lambda: picture(space.pca()),
        "t-SNE, trustworthiness included": lambda: picture(space.tsne()),
        f"HDBSCAN, {resamples} resamples and the random baseline": clusters,
    }


def processor() -> str:
    """Name of the processor, or "unknown"."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((x.split(": ", 1)[1] for x in lines if x.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=50_257)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--resamples", type=int, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    vectors, group = structured(asked.words, asked.width)
    model = model_of(vectors)
    del vectors
    stages: dict[str, Any] = {}
    with measured(stages, "analysis embedding, with 3 draws of the random baseline") as facts:
        table = interp.run(model, None, "embedding", progress=False)["embedding"].frame
        facts |= table.iloc[0][["entropy_dimension", "mean_cosine"]].round(3).to_dict()
    with measured(stages, "words and vectors read"):
        space = interp.WordVectors.of(model)
    for name, stage in stages_of(space, group, asked.resamples).items():
        with measured(stages, name) as facts:
            facts |= stage()
    print(json.dumps({**vars(asked), "processor": processor(), "stages": stages}, indent=1))


if __name__ == "__main__":
    main()
