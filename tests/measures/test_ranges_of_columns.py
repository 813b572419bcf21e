"""Values of every analysis lie in the range that it declares, on trained and on random models."""

from __future__ import annotations

import numpy as np
import pytest
from zoo import random_tokens

import interp
from interp.contract.columns import by_name
from interp.contract.registry import get, names

RANGED = [name for name in names() if get(name).ranges]
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def trained():
    return interp.run("demo", "her", RANGED, progress=False)


@pytest.fixture(scope="module")
def random(llama):
    return interp.run(llama, random_tokens(4, 12, seed=1), RANGED, progress=False)


@pytest.mark.parametrize("name", RANGED)
@pytest.mark.parametrize("results", ["trained", "random"])
def test_every_value_is_in_its_range(name, results, request):
    result, ends_of = request.getfixturevalue(results)[name], get(name).ranges
    checked = 0
    for column in result.values:
        ends = by_name(ends_of, column)
        if ends is None:
            continue
        x = result.frame[column].to_numpy(np.float64, na_value=np.nan)
        x = x[np.isfinite(x)]
        slack = ROUNDING * max(1.0, np.abs(x).max(initial=0.0))
        assert (x >= ends[0] - slack).all(), column
        assert (x <= ends[1] + slack).all(), column
        checked += len(x) > 0
    assert checked
