"""Names of analyses, found through the entry-point group `interp.analyses`.

Knows entry points and the `Analysis` base; it imports a plug-in only when it is asked for.
"""

from __future__ import annotations

import ast
import json
import linecache
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import TYPE_CHECKING, Any

from interp.contract.builtin import module_of
from interp.errors import BadInput, BrokenPlugin, UnknownName, nearest, unknown

if TYPE_CHECKING:
    from interp.contract.analysis import Analysis


GROUP = "interp.analyses"
DISTRIBUTION = "interp-stream"
_PLACES = (
    "a class that is not installed is named by its place, module:Class or path/file.py:Class, and "
    "one whose name another package has too by its own, package:name"
)


def registered() -> dict[str, list[EntryPoint]]:
    """Entry points by name; a name with several entries is ambiguous.

    A name that several packages register stays with the built-in analysis, if one has it. The
    others of that name are known as `package:name`.
    """
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        same = found.setdefault(entry.name, [])
        # An editable and an installed copy of one distribution list the same target twice.
        if all(entry.value != other.value for other in same):
            same.append(entry)
    for entries in [each for each in found.values() if len(each) > 1]:
        ours = [e for e in entries if _package(e) == DISTRIBUTION]
        found |= {_qualified(e): [e] for e in entries if e not in ours}
        found[entries[0].name] = ours or entries
    return found


def _qualified(entry: EntryPoint) -> str:
    """The name of an analysis with its package, which no other package can take."""
    return f"{_package(entry)}:{entry.name}"


def names() -> list[str]:
    """Names of all registered analyses, sorted, without the ambiguous ones; nothing is imported."""
    return sorted(name for name, entries in registered().items() if len(entries) == 1)


def get(name: str) -> type[Analysis]:
    """The analysis class behind a name, `package:name`, or a place.

    A place is `module:Class` or `path/file.py:Class`, of a class that no package registers. It is
    looked for where Python looks, then in the folder of the process.

    Raises `UnknownName` if there is none (with the nearest name), `BadInput` if two packages
    register it, or for a file whose name another module has, `BrokenPlugin` if it cannot be
    imported or is no `Analysis`.
    """
    found = registered()
    qualified = {_qualified(e): [e] for entries in found.values() for e in entries}
    candidates = found.get(name) or qualified.get(name)
    if candidates is None:
        if ":" in name:
            return _at(name)
        raise UnknownName(f"{unknown('analysis', name, names())}; {_PLACES}")
    if len(candidates) > 1:
        where = " or ".join(f"{_qualified(e)!r} ({e.value})" for e in candidates)
        raise BadInput(f"analysis {name!r} is registered twice; say which one: {where}")
    return _load(name, candidates[0])


def _at(name: str) -> type[Analysis]:
    """The class at a place, which is imported by its module's name."""
    place, _, attribute = name.rpartition(":")
    file = Path(place).expanduser() if place.endswith(".py") else None
    if file is not None and not file.is_file():
        raise UnknownName(f"no file {place!r} for the analysis {name!r}; {_PLACES}")
    module, folder = (file.stem, file.parent) if file else (place, Path())
    if str(folder.resolve()) not in sys.path:
        # Last, so that nothing in the folder hides a module of another package. Commands do not
        # look where they are started, and the processes of a corpus run inherit the path.
        sys.path.append(str(folder.resolve()))
    spec = _spec(module)
    if spec is None:
        near = nearest(name, names())
        raise UnknownName(f"no module {place!r} for the analysis {name!r}{near}; {_PLACES}")
    if file and Path(spec.origin or "").resolve() != file.resolve():
        raise BadInput(f"{place!r} has the name of the module {spec.origin!r}: rename the file")
    try:
        return _load(name, EntryPoint(name, f"{module}:{attribute}", GROUP))
    except BrokenPlugin:
        loaded = vars(sys.modules[module]) if module in sys.modules else {}
        if not loaded or attribute in loaded:
            raise
        kinds = [n for n, x in loaded.items() if isinstance(x, type) and x.__module__ == module]
        raise unknown(f"class in {place}", attribute, kinds) from None


def _spec(module: str) -> ModuleSpec | None:
    """Where a module is; None if there is none."""
    try:
        return find_spec(module_of(module))
    except ModuleNotFoundError:
        return None
    except ValueError:  # an empty name, or a module that was made by hand
        return None


def _load(name: str, entry: EntryPoint) -> type[Analysis]:
    try:
        loaded = EntryPoint(name, _value_of(entry), GROUP).load()
    except Exception as error:
        raise BrokenPlugin(
            f"analysis {name!r} ({entry.value}, {_package(entry)}) cannot be imported: "
            f"{type(error).__name__}: {error}{_statement(entry, error)}{_place(entry)}"
        ) from error
    from interp.contract.analysis import Analysis

    if not (isinstance(loaded, type) and issubclass(loaded, Analysis)):
        raise BrokenPlugin(
            f"analysis {name!r} ({entry.value}, {_package(entry)}) is {loaded!r}, "
            "not a subclass of interp.Analysis"
        )
    return loaded


def _value_of(entry: EntryPoint) -> str:
    """The target of an entry point, where it can be imported."""
    return f"{module_of(entry.module)}:{entry.attr}"


def _statement(entry: EntryPoint, error: Exception) -> str:
    """The statement of the plug-in's file that raised, ` (file.py, line 12: code)`, and the fix."""
    spec = None
    with suppress(ImportError, ValueError):  # the package itself may be gone
        spec = find_spec(module_of(entry.module))
    file = spec.origin if spec else None
    lines = [line for frame, line in walk_tb(error.__traceback__) if _file(frame) == file]
    if file is None or not lines:
        return ""
    where = f"{Path(file).name}, line {lines[-1]}"
    kind = _class_at(Path(file), lines[-1])
    if kind is None or "non-frozen dataclass" not in str(error):
        return f" ({where}: {linecache.getline(file, lines[-1]).strip()})"
    return f" ({where}: decorate class {kind} with @dataclass(frozen=True))"


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename


def _class_at(file: Path, line: int) -> str | None:
    """Name of the class whose decorators or body are in a line of a file."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            if first <= line <= (node.end_lineno or first):
                return node.name
    return None


def _place(entry: EntryPoint) -> str:
    """Where the plug-in's package was found, for a reader whose own folder may hide it."""
    package = entry.module.partition(".")[0]
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return ""
    if spec is None:
        return ""
    place = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return f" (package {package!r} was found in {place})"


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "not installed"


def resolve(
    wanted: str | Analysis | type[Analysis] | Iterable[str | Analysis | type[Analysis]],
    *,
    declared: bool = True,
) -> dict[str, Analysis]:
    """Analyses by name, in the given order, from names, classes and instances.

    Args:
        wanted: what is to run.
        declared: whether what they declare is judged too (`interp.contract.declared`).

    Raises `BadInput` for none at all, for two under one name, for anything else, for parameters
    or columns that are not declared, and what `Analysis.check_parameters` raises.
    """
    from interp.contract.analysis import Analysis
    from interp.contract.declared import refuse_undeclared

    if not isinstance(wanted, str | Analysis | type | Iterable):
        raise BadInput(
            f"analyses={wanted!r} is {type(wanted).__name__}; give names, classes or instances, "
            "such as ['rotation', 'logit_lens']"
        )
    items = [wanted] if isinstance(wanted, str | Analysis | type) else list(wanted)
    out: dict[str, Analysis] = {}
    for item in items:
        analysis = _instance(item)
        name = _name_of(item, analysis)
        if declared:
            refuse_undeclared(name, analysis)
        analysis.check_parameters()
        if name in out:
            raise BadInput(f"analysis {name!r} was asked for twice in one run")
        out[name] = analysis
    if not out:
        raise BadInput(f"no analysis was asked for (registered: {', '.join(names())})")
    return out


def with_parameters(wanted: Sequence[str], settings: Sequence[str]) -> list[str | Analysis]:
    """Analyses by name, those that settings name built from them.

    Args:
        wanted: names.
        settings: `"NAME.PARAMETER=VALUE"` each, the value as JSON, else the text that it is.

    Raises `BadInput` for a setting of another form, of an analysis that is not wanted or with a
    value of another kind than the parameter's default; `UnknownName` for a parameter that the
    analysis does not have.
    """
    given: dict[str, dict[str, Any]] = {}
    for setting in settings:
        where, equals, text = setting.partition("=")
        name, dot, parameter = where.strip().rpartition(".")
        if not (equals and dot):
            raise BadInput(f"setting {setting!r}; allowed is NAME.PARAMETER=VALUE, by dot and =")
        if name not in wanted:
            raise BadInput(f"setting {setting!r} is of no analysis asked for: {', '.join(wanted)}")
        given.setdefault(name, {})[parameter] = _value(get(name), name, parameter, text.strip())
    return [get(name).restore(given[name]) if name in given else name for name in wanted]


def _value(kind: type[Analysis], name: str, parameter: str, text: str) -> Any:
    """A parameter's value, checked against the kind of its default."""
    defaults = {f.name: f.default for f in fields(kind)}
    if parameter not in defaults:
        raise unknown(f"parameter of {name}", parameter, defaults)
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    default = defaults[parameter]
    kinds: dict[type, Any] = {tuple: list, float: (float, int)}  # as JSON has them
    wanted = kinds.get(type(default), type(default))
    fits = isinstance(value, wanted) and (isinstance(default, bool) == isinstance(value, bool))
    if default is not None and default is not MISSING and not fits:
        shown = json.dumps(default)
        raise BadInput(f"{name}.{parameter}={text}; expected a value like its default, {shown}")
    return value


def _instance(item: object) -> Analysis:
    from interp.contract.analysis import Analysis

    if isinstance(item, Analysis):
        return item
    if isinstance(item, str):
        return _build(get(item), item)
    if isinstance(item, type) and issubclass(item, Analysis):
        return _build(item, item.name())
    raise BadInput(f"an analysis is a name, an Analysis or its class, not {item!r}")


def _build(kind: type[Analysis], name: str) -> Analysis:
    try:
        return kind()
    except TypeError as error:
        raise BadInput(
            f"analysis {name!r} needs parameters ({error}); pass an instance instead of the name"
        ) from None


def _name_of(item: object, analysis: Analysis) -> str:
    # With its package or place it would be no name of a file.
    return item if isinstance(item, str) and ":" not in item else analysis.name()


def describe() -> list[dict[str, str]]:
    """One row per registered analysis: name, package, scope, sites and what it measures.

    Read from the plug-in's source without running it, so that listing is quick; a plug-in whose
    source cannot be found or read has the reason in its row.
    """
    return [_described(name, entries) for name, entries in registered().items()]


def _described(name: str, entries: list[EntryPoint]) -> dict[str, str]:
    row = {"name": name, "package": ", ".join(_package(e) for e in entries)}
    if len(entries) > 1:
        return row | {"scope": "-", "sites": "-", "about": f"ambiguous: {_either(entries)}"}
    try:
        body = _class_source(entries[0])
    except (ImportError, OSError, SyntaxError, AttributeError, LookupError) as error:
        return row | {"scope": "-", "sites": "-", "about": f"broken: {error}"}
    about = (ast.get_docstring(body) or "").strip().split("\n", 1)[0]
    fixed = _constants(body)
    sites = fixed.get("sites", ())
    return row | {
        "scope": str(fixed.get("scope", "layer")),
        "sites": ", ".join(sites) if isinstance(sites, tuple) else "",
        "about": about,
    }


def _either(entries: Iterable[EntryPoint]) -> str:
    return " or ".join(map(_qualified, entries))


def _class_source(entry: EntryPoint) -> ast.ClassDef:
    # `find_spec` runs the package's `__init__` and not the plug-in, whose imports may take seconds.
    spec = find_spec(module_of(entry.module))
    if spec is None or spec.origin is None:
        raise ImportError(f"no module {entry.module!r}")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == entry.attr:
            return node
    raise LookupError(f"no class {entry.attr!r} in {entry.module}")


def _constants(body: ast.ClassDef) -> dict[str, object]:
    """Literal values assigned in the class body, by name."""
    values: dict[str, object] = {}
    for node in body.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign):
            continue
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        if isinstance(target, ast.Name):
            try:
                # Literals only: evaluating more would run the plug-in's code to list its name.
                values[target.id] = ast.literal_eval(node.value) if node.value else None
            except ValueError:
                continue
    return values
