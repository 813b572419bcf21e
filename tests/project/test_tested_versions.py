"""The lock, what is told of it, and what the library depends on."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import sys
import tomllib
from importlib.metadata import packages_distributions, requires, version

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import interp
from interp.models import tested_versions as _tested
from interp.models.probe import KNOWN

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = (ROOT / "constraints.txt").read_text(encoding="utf-8")
LINES = [line for line in TEXT.splitlines() if not line.startswith("#")]
PINS = dict(line.split("==") for line in LINES if "==" in line)
EXTRAS = [item for items in PROJECT["optional-dependencies"].values() for item in items]
TORCH = re.search(r"^torch<2\.14  # tested: (\S+)$", TEXT, re.MULTILINE)


def script(name: str):
    """A script of .ci as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lock():
    return script("lock")


def test_what_is_tried_with_the_newest_versions_is_there(capsys):
    newest = script("newest")
    assert all((ROOT / "tests" / f"{name}.py").is_file() for name in newest.QUICK)
    exec(newest.DIFFERENT, {})  # noqa: S102  our own line, run elsewhere by that script
    assert "Error" not in capsys.readouterr().out


def test_every_line_is_one_version_but_torch_is_a_range_for_the_build_at_hand():
    assert TORCH
    assert [li for li in LINES if "==" not in li] == [TORCH[0]]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", li) for li in LINES if "==" in li)
    assert len(PINS) == len(LINES) - 1, "a package stands twice"
    assert "://" not in TEXT


def test_the_build_of_torch_is_not_locked():
    assert not [name for name in PINS if name.startswith(("nvidia", "cuda", "triton"))]


def closure(*wanted: str) -> set[str]:
    """Packages that requirements need here, transitive ones too, by the installed metadata."""
    found: set[tuple[str, frozenset]] = set()
    left = [Requirement(text) for text in wanted]
    while left:
        need = left.pop()
        key = (canonicalize_name(need.name), frozenset(need.extras))
        if key in found:
            continue
        found.add(key)
        for text in requires(need.name) or []:
            further = Requirement(text)
            scopes = [{"extra": extra} for extra in ("", *need.extras)]
            if further.marker is None or any(further.marker.evaluate(s) for s in scopes):
                left.append(further)
    return {name for name, _ in found}


def test_every_package_that_the_tests_need_is_named():
    needed = closure(*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"])
    assert len(needed) > 100
    missing = needed - set(PINS) - {"torch"}
    assert not {n for n in missing if not n.startswith(("nvidia", "cuda", "triton"))}


def test_the_extras_are_named():
    assert {canonicalize_name(Requirement(text).name) for text in EXTRAS} <= set(PINS)


def test_the_lock_is_within_the_ranges():
    for need in map(Requirement, [*PROJECT["dependencies"], *EXTRAS]):
        right = {**PINS, "torch": TORCH[1]}[canonicalize_name(need.name)]
        assert need.specifier.contains(right), f"{need} excludes {right}"


def test_transformers_that_drop_the_cache_are_out_of_range():
    """5.24 renamed the cache argument of a layer; TransformerLens 4.3.0 then drops the cache."""
    need = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "transformers")
    assert need.specifier.contains("5.23.0")
    for wrong in ("5.24.0", "5.24.1", "5.25.0", "6.0.0"):
        assert not need.specifier.contains(wrong)


def test_what_is_imported_is_declared():
    """Also what comes with another package today: it may not tomorrow."""
    declared = {canonicalize_name(Requirement(t).name) for t in PROJECT["dependencies"]}
    declared |= {canonicalize_name(Requirement(t).name) for t in EXTRAS}
    modules = {
        name.partition(".")[0]
        for folder in ("interp", "analyses")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in _imported(node)
    }
    of = packages_distributions()
    third = {m for m in modules - sys.stdlib_module_names - {"interp", "analyses"} if m in of}
    assert {"torch", "transformers", "tokenizers"} <= third
    loose = {m for m in third if not {canonicalize_name(d) for d in of[m]} & declared}
    # `datasets` is only looked at if the caller's object is one of it.
    assert loose <= {"datasets", "IPython"}  # where they are used, they are there


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


def test_the_packaged_versions_are_those_of_the_lock(lock):
    versions = {**PINS, "torch": TORCH[1]}
    assert _tested.tested() == {**lock.tested(versions), "python": _tested.tested()["python"]}
    assert f"Python {_tested.tested()['python']};" in TEXT


def test_the_readme_names_the_versions_of_the_lock(lock):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    line = lock.readme_line(_tested.tested())
    assert line in readme
    assert f"transformers {PINS['transformers']}" in line
    assert f"torch {TORCH[1]}" in line
    assert "-c constraints.txt" in readme


def test_the_lock_keeps_ranges_and_drops_local_builds(lock):
    assert lock.kept_ranges(TEXT) == {"torch": "<2.14"}
    assert lock.PIN.match("torch==2.13.0+cpu").groups() == ("torch", "2.13.0")
    assert lock.PIN.match("a-b==1.0 ; sys_platform == 'linux'").groups() == ("a-b", "1.0")
    assert lock.constraints({"a": "1", "torch": "2.13.0"}, {"torch": "<2.14"}).endswith(
        "\na==1\ntorch<2.14  # tested: 2.13.0\n"
    )


@pytest.fixture
def other_versions(monkeypatch):
    """A tested set that this environment differs from in two packages, and lacks one of."""
    right = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "torch": version("torch").partition("+")[0],
        "numpy": "1.0",
        "transformers": version("transformers"),
        "pandas": "0.1",
        "not-installed-anywhere": "3",
    }
    monkeypatch.setattr(_tested, "tested", lambda: right)


def test_versions_outside_the_tested_set_are_named_and_builds_are_not(other_versions):
    found = _tested.untested()
    assert found == {
        "numpy": f"{version('numpy')} (tested 1.0)",
        "pandas": f"{version('pandas')} (tested 0.1)",
    }


def test_another_python_is_named(monkeypatch):
    monkeypatch.setattr(_tested, "tested", lambda: {"python": "3.2"})
    here = ".".join(map(str, sys.version_info[:2]))
    assert _tested.untested() == {"python": f"{here} (tested 3.2)"}


def test_inspect_and_provenance_name_them(other_versions, gpt2, monkeypatch):
    monkeypatch.setitem(vars(gpt2), KNOWN, None)
    anatomy = interp.inspect(gpt2)
    line = f"numpy {version('numpy')} (tested 1.0), pandas {version('pandas')} (tested 0.1)"
    assert ("versions not tested", line) in anatomy.facts()
    assert json.loads(anatomy.to_json())["untested"]["numpy"].endswith("(tested 1.0)")
    results = interp.run(gpt2, [[1, 2, 3]], "rotation", progress=False)
    assert set(results.provenance["untested_versions"]) == {"numpy", "pandas"}


def test_the_tables_of_commands_name_them(other_versions):
    from interp.cli.app import about

    assert set(about("x")["untested_versions"]) == {"numpy", "pandas"}
