"""Block 0 and state 0 are at the bottom of every figure that has them from bottom to top."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import interp
from interp.experiments import head_types
from interp.experiments.changes import ChangePoints


@pytest.fixture(scope="module")
def results():
    analyses = ["logit_lens", "attention", "layer_similarity", "rotation", "prediction_geometry"]
    return interp.run("demo", "her", analyses, target="her", progress=False)


def heats(figure):
    return [trace for trace in figure.data if trace.type == "heatmap"]


def upwards(figure, axis="yaxis"):
    """Whether small values of a vertical axis are at the bottom."""
    axis = figure.layout[axis]
    ends = axis.range
    return axis.autorange != "reversed" and (ends is None or ends[0] < ends[1])


def test_heatmaps_of_blocks_and_states(results):
    figures = {
        "lens": results["logit_lens"].plot("log_prob"),
        "heads": results["attention"].plot("sink"),
        "pairs of states": results["layer_similarity"].plot(),
        "groups": interp.compare(
            results["attention"], "sink", "role", "target", "previous", resamples=50
        ).plot(),
        "types": head_types(results, resamples=50).plot(),
    }
    seen = 0
    for name, figure in figures.items():
        for trace in heats(figure):
            rows = [y for y in trace.y if isinstance(y, int | float | np.integer)]
            assert rows == sorted(rows), name
            assert upwards(figure), name
            seen += len(rows) > 1
    assert seen >= 4


def test_a_list_of_blocks_begins_at_the_bottom():
    frame = pd.DataFrame({"layer": range(4), "at": [10.0, 20, 30, 40], "low": 5.0, "high": 50.0})
    frame = frame.assign(p_max=0.01, size=1.0, before=0.0, after=1.0)
    curves = pd.concat([frame.assign(at=at, mean=1.0, n=3) for at in (10.0, 20.0, 40.0)])
    found = ChangePoints(frame, curves, "angle", "training step")
    figure = found.plot("When it changed")
    assert list(figure.layout.yaxis.ticktext) == [f"layer {i}" for i in range(4)]
    assert upwards(figure)
