"""Imports go one way, heavy libraries come late, public names are complete, functions short."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import interp
from interp import errors

ROOT = Path(interp.__file__).parent
ANALYSES = ROOT.parent / "analyses"

# The rooms from the ground up; a room imports only from the rooms before it. Every import counts:
# those at the top of a file, those inside functions, and those for typing.
ROOMS = (
    *("errors", "geometry", "_progress", "_arrays", "demo", "_files"),
    *("contract", "prompts"),
    *("render", "stats", "measures", "models", "runs", "experiments", "cli"),
)
TOP_MODULES = {"__init__", "errors", "geometry", "_files", "_progress", "_arrays"}
LATE = {"transformer_lens", "transformers", "ray", "plotly", "circuitsvis", "spacy", "datasets"}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    """The folder of a module below `interp`, or the module itself at the top."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def dotted(path: Path) -> str:
    """`interp.runs.run` for interp/runs/run.py; a package is its `__init__`."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path) for path in ROOT.rglob("*.py")}


def own_imports(path: Path) -> set[str]:
    """Every module of `interp` that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in NAMES else str(node.module) for name in whole)
    return {name for name in found if name.split(".")[0] == "interp" and name != dotted(path)}


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
def test_imports_go_down(path):
    own = room(path)
    if own in ("__init__", "__main__"):
        return
    assert own in ROOMS, f"interp/{own} is in no room: say in ROOMS where it belongs"
    for name in own_imports(path):
        parts = name.split(".")
        if len(parts) == 1:
            continue  # `import interp`, for its version and its path
        assert ROOMS.index(parts[1]) <= ROOMS.index(own), f"{dotted(path)} imports {name}"


def test_no_circle_of_files():
    """Depth-first over every import: a file that is reached from itself is a circle."""
    edges = {dotted(path): sorted(own_imports(path) - {"interp"}) for path in modules()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join((*way[way.index(name) :], name))
        if name in done:
            return
        for below in edges.get(name, ()):
            visit(below, (*way, name))
        done.add(name)

    for name in edges:
        visit(name, ())


def test_few_rooms_and_few_modules_at_the_top():
    folders = {p.name for p in ROOT.iterdir() if (p / "__init__.py").is_file()}
    assert len(folders - {"demo", "cli"}) <= 8, folders
    assert {p.stem for p in ROOT.glob("*.py")} <= TOP_MODULES | {"__main__"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_interp_knows_no_analysis_and_imports_heavy_libraries_late(path):
    assert not any(n.split(".")[0] == "analyses" for n in imports_of(path, module_level=False))
    if room(path) == "demo":
        return  # the training script is a program of its own
    heavy = {n.split(".")[0] for n in imports_of(path, module_level=True)} & LATE
    assert not heavy, f"{path.name} imports {heavy} at module level"


@pytest.mark.parametrize("path", sorted(ANALYSES.glob("*.py")), ids=lambda p: p.name)
def test_analyses_use_the_public_names_only(path):
    pages = [import_module(f"interp.{page}") for page in (*errors.PAGES, "geometry")]
    public = {f"interp.{name}" for name in interp.__all__} | {"interp"}
    public |= {f"{page.__name__}.{name}" for page in pages for name in vars(page)}
    for name in imports_of(path, module_level=False):
        if name.split(".")[0] == "interp":
            assert name in public, name


def stub_names() -> list[tuple[str, str]]:
    """Module and name of everything on the public page, in its order."""
    tree = ast.parse((ROOT / "__init__.pyi").read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return [(node.module or "", alias.name) for node in found for alias in node.names]


def test_every_public_name_is_written_once_and_can_be_imported():
    names = [name for _, name in stub_names()]
    assert sorted(names) == sorted(set(names)) == sorted(interp.__all__)
    for module, name in stub_names():
        home = import_module(f"interp.{module}".rstrip("."))
        expected = getattr(home, name) if module else import_module(f"interp.{name}")
        assert getattr(interp, name) is expected, name


def test_few_names_stand_at_the_top():
    assert sum(module.count(".") > 0 for module, _ in stub_names()) <= 42


@pytest.mark.parametrize("old", sorted(errors.MOVED))
def test_modules_of_the_first_layout_tell_where_they_are(old):
    new = f"interp.{errors.MOVED[old]}"
    import_module(new)
    package = old.split(".")[0] if old.startswith("spaces.") else old
    told = f"interp.{old} is now {new}" if package == old else f"{old} is {errors.MOVED[old]}"
    with pytest.raises(ModuleNotFoundError, match=rf"{told}($|;)"):
        import_module(f"interp.{old}")


def test_names_that_left_the_top_tell_where_they_are():
    for name, page in {
        "decision_depth": "experiments",
        "sinusoidal_share": "measures",
        "token_id": "prompts",
        "Comparison": "stats",
        "embedding_matrix": "models",
        "Probes": "runs.attach",
        "CorpusRun": "runs.corpus.run",
        "UnknownName": "errors",
    }.items():
        with pytest.raises(AttributeError, match=f"it is now interp.{page}.{name}$"):
            getattr(interp, name)
        assert getattr(import_module(f"interp.{page}"), name)
    with pytest.raises(AttributeError, match="it is now interp.contract.leaves$"):
        interp.state  # noqa: B018


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
