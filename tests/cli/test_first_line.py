"""A first line on standard error before the heavy imports, also in a pipe."""

import os
import subprocess
import sys

import pytest

# Tells how far the imports were when the first line was written.
WATCH = """
import sys, io
from interp import _progress
write = _progress._write
def told(text):
    write(f"{'torch' in sys.modules} {text}")
_progress._write = told
from interp.cli import main
main()
"""


@pytest.mark.parametrize(
    ("words", "first"),
    [
        ("cause -p her --no-such", None),
        ("cause -p her -m nodir/", "loading nodir/ …"),
        ("steer -p her -m nodir/ --toward x --token x --layers 1", "loading nodir/ …"),
        ("spaces nodir/ other/", "loading nodir/ and other/ …"),
        ("words near her -m nodir/", "loading nodir/ …"),
        ("predict nothing", "reading nothing …"),
        ("run --pairs none.csv -m nodir/", "loading nodir/ …"),
        ("calibrate nothing", "measuring phantoms for nothing …"),
        ("cause -p her -m nodir/ -q", None),
        ("cause -p her -m nodir/ --json", None),
    ],
)
def test_the_first_line_comes_before_the_imports(tmp_path, words, first):
    done = subprocess.run(
        [sys.executable, "-c", WATCH, *words.split()], cwd=tmp_path, text=True,
        capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.endswith(" …")]
    assert lines[:1] == ([f"False {first}"] if first else []), done.stderr
