"""Names of analyses, found through the entry-point group `interp.analyses`.

Knows entry points and the `Analysis` base; it imports a plug-in only when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points

from interp.analysis import Analysis
from interp.errors import BadInput, BrokenPlugin, unknown

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
        loaded = entry.load()
    except Exception as error:
        raise BrokenPlugin(
            f"analysis {name!r} ({entry.value}, {_package(entry)}) cannot be imported: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Analysis)):
        raise BrokenPlugin(
            f"analysis {name!r} ({entry.value}, {_package(entry)}) is {loaded!r}, "
            "not a subclass of interp.Analysis"
        )
    return loaded


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else "unknown package"


def resolve(
    wanted: str | Analysis | type[Analysis] | Iterable[str | Analysis | type[Analysis]],
) -> dict[str, Analysis]:
    """Analyses by name, in the given order, from names, classes and instances.

    Raises `BadInput` for none at all, for two under one name and for anything else.
    """
    items = [wanted] if isinstance(wanted, str | Analysis | type) else list(wanted)
    out: dict[str, Analysis] = {}
    for item in items:
        analysis = _instance(item)
        name = _name_of(item, analysis)
        if name in out:
            raise BadInput(f"analysis {name!r} was asked for twice in one run")
        out[name] = analysis
    if not out:
        raise BadInput(f"no analysis was asked for (registered: {', '.join(names())})")
    return out


def _instance(item: object) -> Analysis:
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


def describe(found: Mapping[str, list[EntryPoint]] | None = None) -> list[dict[str, str]]:
    """One row per registered analysis: name, package, scope, sites, what it measures."""
    rows = []
    for name, entries in (found or registered()).items():
        row = {"name": name, "package": ", ".join(_package(e) for e in entries)}
        try:
            kind = get(name)
        except (BadInput, BrokenPlugin) as error:
            rows.append(row | {"scope": "-", "sites": "-", "about": str(error)})
            continue
        about = (kind.__doc__ or "").strip().split("\n", 1)[0]
        rows.append(row | {"scope": kind.scope, "sites": ", ".join(kind.sites), "about": about})
    return rows
