"""Arrays as text for a page: read back by an independent decoder, and smaller where they can be."""

from __future__ import annotations

import numpy as np
import pytest
from explorer_help import read
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from interp.render.packed import packed, unpacked

SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9)


@given(arrays.arrays(np.float32, SHAPES, elements=st.floats(width=32, allow_nan=True)))
def test_floats_come_back_bit_for_bit(values):
    told = packed(values, "f4")
    for back in (read(told), unpacked(told)):
        assert back.shape == values.shape
        assert np.array_equal(back, values, equal_nan=True)


@pytest.mark.parametrize("kind", ["i4", "u2", "u1"])
def test_whole_numbers_come_back(kind):
    limits = np.iinfo(kind)
    values = np.linspace(limits.min, limits.max, 999).round().reshape(3, 333)
    for back in (read(packed(values, kind)), unpacked(packed(values, kind))):
        assert np.array_equal(back, values.astype(kind))


def test_bytes_are_little_endian_whatever_the_array_was():
    assert packed(np.asarray([1], ">i4"), "i4")["data"] == "AQAAAA=="
    assert packed(np.asfortranarray([[1, 2], [3, 4]]), "u1")["data"] == "AQIDBA=="


def test_an_array_is_deflated_only_where_that_saves():
    random = np.random.default_rng(0)
    noise = packed(random.integers(256, size=4000), "u1")
    assert "zip" not in noise
    even = packed(np.zeros(4000), "u1")
    assert even["zip"]
    assert len(even["data"]) < 100
    # Numbers of one size have like exponents: transposed, these deflate.
    near = packed(random.uniform(20, 21, size=4000), "f4")
    assert near["shuffle"]
    assert len(near["data"]) < 0.8 * 4000 * 4 * 4 / 3
