"""Runs the quick part of the suite on what an install without constraints gets today.

`make newest` runs it. The environment is `.venv-newest`, made anew each time; only torch keeps its
range from constraints.txt, so that the build at hand is taken. The last lines say in words which
packages differ from the tested ones and whether the tests passed; the exit code is 0 only then.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".venv-newest"
PYTHON = FOLDER / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
# What touches transformers, TransformerLens, pandas and plotly most, at a few seconds a file.
QUICK = (
    "cli/test_cli",
    "experiments/test_steering",
    "models/test_controls",
    "models/test_readout",
    "project/test_tested_versions",
    "render/test_figures",
    "runs/test_attach",
    "runs/test_run",
)
INSTALL_S, LIMIT_S = 120, 240
DIFFERENT = "from interp.models.tested_versions import named, untested; print(named(untested()))"


def main() -> int:
    """Install, test and tell."""
    if not install():
        return told(f"no install within {INSTALL_S} s (uv's message, if any, is above)", 1)
    different = output(DIFFERENT) or "none of the direct dependencies"
    try:
        code = run_tests()
    except subprocess.TimeoutExpired:
        return told(f"no verdict: the tests were ended after {LIMIT_S} s", 1, different)
    verdict = "passes" if code == 0 else "FAILS (see above)"
    return told(f"the quick part of the suite {verdict}", code, different)


def install() -> bool:
    """Make the environment and install the library and its tests; whether that worked."""
    venv.create(FOLDER, clear=True, with_pip=False)
    uv = Path(sys.executable).with_name("uv.exe" if sys.platform == "win32" else "uv")
    command = [uv, "pip", "install", "-q", "--python", PYTHON, "-e", ".[test]", torch_range()]
    try:
        return subprocess.run(command, cwd=ROOT, timeout=INSTALL_S).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def torch_range() -> str:
    """The line of constraints.txt on torch, without its comment."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return re.search(r"^torch[^\s#]*", text, re.MULTILINE)[0]


def output(code: str) -> str:
    """What a line of Python prints in the new environment."""
    command = [PYTHON, "-c", code]
    return subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE).stdout.strip()


def run_tests() -> int:
    """The exit code of pytest on the quick part."""
    files = [f"tests/{name}.py" for name in QUICK]
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules"]
    command += ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", *files]
    return subprocess.run(command, cwd=ROOT, timeout=LIMIT_S, env=os.environ).returncode


def told(verdict: str, code: int, different: str = "") -> int:
    """Print the outcome; returns the exit code."""
    print(f"\nwithout constraints: {verdict}", flush=True)
    if different:
        print(f"in another version than tested: {different}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
