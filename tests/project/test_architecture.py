"""Imports point one way, heavy libraries come late, the public page is complete."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import interp

ROOT = Path(interp.__file__).parent
ANALYSES = ROOT.parent / "analyses"

# Lower levels know nothing of higher ones; a module imports only from its own level and below.
LEVELS = [
    {"errors", "_tested", "geometry", "progress", "_files", "lens", "_lens_blocks", "_lens_fused"}
    | {"_user_files"},
    {"sites", "state", "_columns", "_tokenise", "_token_id", "_caches", "_calls", "unembedding"}
    | {"_checkpoint"},
    {"clustered", "tallies", "_hub"},
    {"analysis", "_cells", "positions", "profiles", "embedding", "_sources", "labels"}
    | {"_formats", "_tabular"},
    {"observer", "readout", "prediction", "word_vectors", "registry", "models", "prompts"},
    {"anatomy", "results", "controls", "_passes", "_synthetic", "_same", "trajectories"},
    {"checks", "_laws", "_position_switch"},
    {"for_model", "probe"},
    {"runner", "cached"},
    {
        "stats",
        "render",
        "input_split",
        "experiments",
        "heads",
        "spaces",
        "corpus",
        "vocabulary",
        "steering",
        "doses",
    },
    {"cli"},
]
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}
LATE = {"transformer_lens", "transformers", "ray", "plotly", "circuitsvis", "spacy", "datasets"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def top(path: Path) -> str:
    """First part of a module's name below `interp`."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports_of(path: Path, *, module_level: bool) -> set[str]:
    """Absolute names that a file imports; at module level only, if asked, and not for typing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _outside_functions(tree) if module_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _outside_functions(tree: ast.AST) -> list[ast.AST]:
    out, queue = [], [tree]
    while queue:
        node = queue.pop()
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only:
            continue
        out.append(node)
        queue.extend(ast.iter_child_nodes(node))
    return out


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path):
    own = top(path)
    if own in ("__init__", "demo"):
        return
    assert own in LEVEL_OF, f"say in LEVELS where interp.{own} belongs"
    for name in imports_of(path, module_level=True):
        parts = name.split(".")
        if parts[0] == "interp" and len(parts) > 1 and parts[1] in LEVEL_OF:
            assert LEVEL_OF[parts[1]] <= LEVEL_OF[own], f"interp.{own} imports interp.{parts[1]}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_interp_knows_no_analysis_and_imports_heavy_libraries_late(path):
    assert not any(n.split(".")[0] == "analyses" for n in imports_of(path, module_level=False))
    if top(path) == "demo":
        return  # the training script is a program of its own
    heavy = {n.split(".")[0] for n in imports_of(path, module_level=True)} & LATE
    assert not heavy, f"{path.name} imports {heavy} at module level"


@pytest.mark.parametrize("path", sorted(ANALYSES.glob("*.py")), ids=lambda p: p.name)
def test_analyses_use_the_public_names_only(path):
    public = {"interp", "interp.geometry", *(f"interp.{name}" for name in interp.__all__)}
    for name in imports_of(path, module_level=False):
        if name.split(".")[0] == "interp":
            assert name in public or name.startswith("interp.geometry."), name


def test_every_public_name_is_listed_and_can_be_imported():
    assert sorted(interp._MODULE_OF) == sorted(interp.__all__)
    for name in interp.__all__:
        module = import_module(f"interp.{interp._MODULE_OF[name]}")
        assert getattr(interp, name) is getattr(module, name)


def test_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'rotate'"):
        interp.rotate  # noqa: B018


def test_import_interp_is_light():
    code = (
        "import sys, interp; interp.run, interp.compare, interp.attach;"
        f"print(sorted(set({sorted(LATE)!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import_alone_brings_no_torch():
    code = "import sys, interp; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def functions() -> list[tuple[str, ast.FunctionDef]]:
    found = []
    for path in [*modules(), *ANALYSES.glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found += [(f"{path.name}:{node.name}", node)]
    return found


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of what a function does: neither its signature nor its docstring."""
    first = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return function.end_lineno - first[0].lineno + 1 if first else 0


def test_functions_stay_short():
    lengths = {name: body_lines(function) for name, function in functions()}
    long = {name: length for name, length in lengths.items() if length > 60}
    assert not long, f"split these: {long}"
    assert statistics.median(lengths.values()) < 17
