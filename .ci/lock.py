"""Writes constraints.txt anew: the newest versions that pyproject.toml allows, one of each package.

`make lock` runs it. Three things come of one resolution: constraints.txt (every package, transitive
ones too), interp/models/tested.json (what the library depends on directly, for `interp inspect` and
provenance) and the README's line. A line of constraints.txt that is a range is kept as it stands.
"""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
TESTED = ROOT / "interp" / "models" / "tested.json"
README = ROOT / "README.md"
HEADER = """\
# Every package that is installed for the tests and the extras, as tested; `make lock` writes it.
# Tested on Linux with Python {python}; resolved for macOS, Windows and later Pythons too.
# Without hosts, and torch is a range, so that the build at hand is taken (CPU, CUDA, MPS).
"""
RANGE = re.compile(r"^([a-z0-9-]+)([<>!~][^#;]*?)\s*(?:#.*)?$")
# A marker says where a package is needed; a constraint holds wherever it is, so it needs none.
PIN = re.compile(r"^([a-z0-9-]+)==([^\s+]+)(?:\+\S+)?(?:\s*;.*)?$")
# Parts of torch's CUDA build: which of them are needed, if any, is for the torch at hand to say.
OF_TORCH = re.compile(r"^(nvidia-|cuda-|triton$)")
README_LINE = re.compile(r"^Tested with Python .*(?:\n(?!\n).*)*", re.MULTILINE)
OURS = ("test", "docs")  # extras of those who work on the library
NAMED = ("torch", "transformer-lens", "transformers", "numpy", "scipy", "pandas", "plotly")


def main() -> None:
    """Resolve, and write the three files."""
    ranges = kept_ranges(CONSTRAINTS.read_text(encoding="utf-8"))
    versions = resolve(ranges)
    CONSTRAINTS.write_text(constraints(versions, ranges), encoding="utf-8")
    TESTED.write_text(json.dumps(tested(versions), indent=2) + "\n", encoding="utf-8")
    readme = README.read_text(encoding="utf-8")
    if not README_LINE.search(readme):
        sys.exit(f"{README} has no paragraph that starts with 'Tested with Python'")
    README.write_text(README_LINE.sub(readme_line(tested(versions)), readme), encoding="utf-8")


def kept_ranges(text: str) -> dict[str, str]:
    """The ranges among the lines of a constraints file, by package: `{"torch": "<2.14"}`."""
    matches = (RANGE.match(line) for line in text.splitlines())
    return {m[1]: m[2] for m in matches if m}


def resolve(ranges: dict[str, str]) -> dict[str, str]:
    """The version of each package, the same for every platform and Python."""
    with tempfile.TemporaryDirectory() as folder:
        limits = Path(folder) / "ranges.txt"
        limits.write_text("".join(f"{name}{limit}\n" for name, limit in ranges.items()))
        command = [uv(), "pip", "compile", "-q", "pyproject.toml", "--all-extras"]
        command += ["--group", "build", "-c", str(limits), "--no-header", "--no-annotate"]
        # One version of each package, so that what was tested on one Python is what others get.
        command += ["--universal", "--fork-strategy", "fewest", "--python-version", "3.11"]
        done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True)
    versions: dict[str, str] = {}
    for line in done.stdout.splitlines():
        match = PIN.match(line)
        if match is None:
            sys.exit(f"a line of uv's answer is no pin: {line!r}")
        name, version = match.groups()
        if versions.get(name, version) != version:
            sys.exit(f"{name} has two versions: {versions[name]} and {version}")
        if not OF_TORCH.match(name):
            versions[name] = version
    return versions


def uv() -> str:
    """The uv beside the Python that runs this, or the one on the path."""
    beside = Path(sys.executable).parent / ("uv.exe" if sys.platform == "win32" else "uv")
    return str(beside) if beside.is_file() else "uv"


def constraints(versions: dict[str, str], ranges: dict[str, str]) -> str:
    """The text of constraints.txt."""
    lines = [
        f"{name}{ranges[name]}  # tested: {version}" if name in ranges else f"{name}=={version}"
        for name, version in sorted(versions.items())
    ]
    return HEADER.format(python=python()) + "\n".join(lines) + "\n"


def tested(versions: dict[str, str]) -> dict[str, str]:
    """Versions of Python and of every direct dependency, also of the extras that users install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"]]
    wanted += [item for extra, items in extras.items() if extra not in OURS for item in items]
    names = sorted({re.split(r"[^A-Za-z0-9-]", item)[0].lower() for item in wanted})
    return {"python": python(), **{name: versions[name] for name in names}}


def python() -> str:
    """The running Python as `3.11`."""
    return ".".join(platform.python_version_tuple()[:2])


def readme_line(versions: dict[str, str]) -> str:
    """The README's paragraph on the tested versions."""
    named = ", ".join(f"{name}~{versions[name]}" for name in NAMED)
    text = (
        f"Tested with Python~{versions['python']} on Linux, {named}; `constraints.txt` has all the "
        "others. `interp~inspect` and the provenance of results name what is installed in another "
        "version."
    )
    return textwrap.fill(text, 100, break_on_hyphens=False).replace("~", " ")


if __name__ == "__main__":
    main()
