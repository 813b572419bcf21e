"""Names of analyses, found through the entry-point group `interp.analyses`.

Knows entry points and the `Analysis` base; it imports a plug-in only when it is asked for.
"""

from __future__ import annotations

import ast
import json
import linecache
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import TYPE_CHECKING, Any

from interp.contract.builtin import module_of
from interp.errors import BadInput, BrokenPlugin, unknown

if TYPE_CHECKING:
    from interp.contract.analysis import Analysis


GROUP = "interp.analyses"


def registered() -> dict[str, list[EntryPoint]]:
    """Entry points by name; a name with several entries is ambiguous."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
        same = found.setdefault(entry.name, [])
        # An editable and an installed copy of one distribution list the same target twice.
        if all(entry.value != other.value for other in same):
            same.append(entry)
    return found


def names() -> list[str]:
    """Names of all registered analyses, sorted; nothing is imported."""
    return sorted(registered())


def get(name: str) -> type[Analysis]:
    """The analysis class behind a name.

    Raises `UnknownName` if there is none (with the nearest name), `BadInput` if two packages
    register it, `BrokenPlugin` if it cannot be imported or is no `Analysis`.
    """
    found = registered()
    if name not in found:
        raise unknown("analysis", name, found)
    candidates = found[name]
    if len(candidates) > 1:
        where = " and ".join(f"{e.value} ({_package(e)})" for e in candidates)
        raise BadInput(f"analysis {name!r} is registered twice: {where}; pass the class itself")
    return _load(name, candidates[0])


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
    return entry.dist.name if entry.dist is not None else "unknown package"


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
    return item if isinstance(item, str) else analysis.name()


def describe() -> list[dict[str, str]]:
    """One row per registered analysis: name, package, scope, sites and what it measures.

    Read from the plug-in's source without running it, so that listing is quick; a plug-in whose
    source cannot be found or read has the reason in its row.
    """
    return [_described(name, entries) for name, entries in registered().items()]


def _described(name: str, entries: list[EntryPoint]) -> dict[str, str]:
    row = {"name": name, "package": ", ".join(_package(e) for e in entries)}
    if len(entries) > 1:
        return row | {"scope": "-", "sites": "-", "about": "ambiguous: registered twice"}
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
