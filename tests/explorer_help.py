"""What the tests of the explorer share: a payload read back, and results of many kinds."""

from __future__ import annotations

import base64
import json
import re
import zlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from render_data import LAYERS, LENGTH, make_results, tokens_table

from analyses.trajectory import Trajectory
from interp import Result, Results

KINDS = {"f4": "<f4", "f2": "<f2", "i4": "<i4", "u2": "<u2", "u1": "u1"}
WIDTH = 6


def read(told: dict) -> np.ndarray:
    """An array of a payload, decoded by RFC 1951 and 4648 without the library."""
    data = base64.b64decode(told["data"], validate=True)
    if told.get("zip"):
        data = zlib.decompressobj(wbits=-15).decompress(data)
    kind = np.dtype(KINDS[told["dtype"]])
    if told.get("shuffle"):
        planes = np.frombuffer(data, "u1").reshape(kind.itemsize, -1)
        data = np.stack(list(planes), axis=1).tobytes()
    return np.frombuffer(data, kind).reshape(told["shape"])


@dataclass(frozen=True)
class Told:
    """A payload, read like the page reads it."""

    payload: dict

    def __post_init__(self) -> None:
        json.dumps(self.payload, allow_nan=False)  # plain values only

    @property
    def tokens(self) -> pd.DataFrame:
        """A row per token: prompt, position, token, special."""
        prompts, tokens = self.payload["prompts"], self.payload["tokens"]
        start = read(prompts["start"])
        lengths = np.diff(start)
        texts = np.asarray(tokens["texts"], dtype=object)
        special = tokens["special"]
        return pd.DataFrame(
            {
                "prompt": np.repeat(np.asarray(prompts["id"], dtype=object), lengths),
                "position": np.concatenate([np.arange(n) for n in lengths]) if len(lengths) else [],
                "token": texts[read(tokens["index"])],
                "special": read(special).astype(bool) if special else False,
            }
        )

    def label(self, name: str) -> list:
        """A label of every token, wherever the payload has it."""
        prompts, tokens = self.payload["prompts"], self.payload["tokens"]
        if name in prompts["labels"]:
            lengths = np.diff(read(prompts["start"]))
            pairs = zip(prompts["labels"][name], lengths, strict=True)
            return [value for value, n in pairs for _ in range(n)]
        told = tokens["labels"][name]
        return [None if i < 0 else told["values"][i] for i in read(told["index"]).tolist()]

    @property
    def names(self) -> list[str]:
        return [measure["name"] for measure in self.payload["measures"]]

    def measure(self, name: str) -> dict:
        return next(m for m in self.payload["measures"] if m["name"] == name)

    def values(self, name: str, side: str = "values") -> pd.DataFrame:
        """A measure as a long table: prompt, position, depth, value."""
        told = self.measure(name)
        grid = read(told[side])
        tokens = self.tokens[["prompt", "position"]]
        parts = [
            tokens.assign(depth=label, value=grid[:, i]) for i, label in enumerate(told["depth"])
        ]
        return pd.concat(parts, ignore_index=True)


def data_of(page: str) -> dict:
    """The payload in a page."""
    found = re.search(
        r'<script type="application/json" id="interp-explorer-data">(.*?)</script>', page, re.DOTALL
    )
    assert found, "no payload in the page"
    return json.loads(found.group(1))


def trajectory(tokens: pd.DataFrame) -> Result:
    """Ways of the first 40 tokens, from random states."""
    analysis = Trajectory(tokens=40)
    generator = torch.Generator().manual_seed(8)
    n = tokens["prompt"].nunique()
    stream = torch.randn(LAYERS + 1, n, LENGTH, WIDTH, generator=generator).cumsum(0)

    class Batch:
        ids = torch.arange(n)
        positions = torch.arange(LENGTH).expand(n, LENGTH)
        mask = torch.ones(n, LENGTH, dtype=torch.bool)
        special = positions == 0

        def __getitem__(self, site):
            return stream

    return Result("trajectory", analysis, {("", -1): analysis.observe(Batch())}, tokens)


def with_ways(**more: object) -> Results:
    """The handmade results of the report's tests, and ways of tokens."""
    results = make_results()
    return Results([*results.values(), trajectory(tokens_table())], {**results.provenance, **more})
