"""Folders saved by version 0.1.0, before modules and leaves were renamed, load as they were."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import interp

ARCHIVE = Path(__file__).parents[1] / "data" / "saved_by_0.1.0.zip"
# What has another formula today: errors of summaries count documents by size.
NEW_FORMULA = {"se"}
NEW_NAME = {
    "effective_rank": "entropy_dimension",
    "random_effective_rank": "random_entropy_dimension",
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folders, and beside them the tables as version 0.1.0 read them."""
    folder = tmp_path_factory.mktemp("saved")
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.parametrize(
    ("folder", "analysis"),
    [
        ("rows", "next_token"),
        ("rows", "embedding"),
        ("summary", "next_token"),
        ("corpus", "next_token"),
    ],
)
def test_tables_of_an_old_folder_are_those_it_was_saved_with(saved, folder, analysis):
    found = interp.load(saved / folder)[analysis].frame
    then = pd.read_csv(saved / f"{folder}.{analysis}.csv").rename(columns=NEW_NAME)
    assert set(then.columns) <= set(found.columns)
    assert len(found) == len(then)
    for name in then.columns.difference(list(NEW_FORMULA)):
        same_values(found[name], then[name])


def same_values(found: pd.Series, then: pd.Series) -> None:
    """Numbers to the last places, words as they are; a CSV holds the shortest digits of float32."""
    if pd.api.types.is_numeric_dtype(then) and not pd.api.types.is_bool_dtype(then):
        as_saved = then.astype(found.dtype) if found.dtype == np.float32 else then
        np.testing.assert_allclose(found, as_saved, rtol=1e-14, err_msg=str(then.name))
    else:
        assert found.astype(str).tolist() == then.astype(str).tolist(), then.name


def test_the_control_of_an_old_folder_is_found(saved):
    results = interp.load(saved / "rows")
    assert set(results.control) == {"next_token", "embedding"}


def test_a_report_is_made_of_an_old_folder(saved, tmp_path):
    page = interp.load(saved / "rows").report(tmp_path / "report.html")
    assert page.stat().st_size > 10_000
