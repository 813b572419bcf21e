"""Members of a series: names, folders and globs as models with a place on an ordered axis.

Knows names and paths; loads nothing.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from interp.errors import BadInput, nearest
from interp.models.load import NAMED, own_name

STEP = re.compile(r"(?:checkpoint|ckpt|steps?|iter)[-_=]?(\d+)", re.IGNORECASE)
"""How training steps stand in names of folders and revisions: checkpoint-500, step1000."""
CHILDREN = ("checkpoint-{}", "step-{}", "checkpoint_{}", "step_{}", "step{}", "{}")
"""Children of a folder that `folder@STEP` may mean."""
STEPS, GIVEN, ORDER = "training step", "position", "number in the series"
FEW = 6  # names that a message lists


@dataclass(frozen=True)
class Member:
    """One model of a series.

    Attributes:
        name: in tables and figures; no two of a series have the same.
        model: what `load_model` takes.
        options: for `load_model`, such as the revision.
        step: training step that its name gives, if any.
        run: the training run that the step is one of: the folder or the repository.
        at: its place on the axis of the series.
    """

    name: str
    model: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    step: int | None = None
    run: str = ""
    at: float = 0.0

    @property
    def source(self) -> str:
        """Where it is loaded from: a path, a name with its revision, or the class of an object."""
        if not isinstance(self.model, str | Path):
            return type(self.model).__name__
        revision = self.options.get("revision")
        return f"{self.model}@{revision}" if revision else str(self.model)


class Members(NamedTuple):
    """The members of a series in the order of its axis.

    Attributes:
        members: in order.
        axis: what the column `at` counts, in words.
        ordered: whether the places are numbers, and not only the order of the names.
        notes: how the members were ordered, and what was left out.
    """

    members: tuple[Member, ...]
    axis: str
    ordered: bool
    notes: tuple[str, ...]


def members_of(models: Any, at: Any = None) -> Members:
    """The members that names, folders, globs and model objects stand for.

    Args:
        models: one or several of: `NAME@REVISION` of the hub, `FOLDER@STEP`, a folder, a folder
            whose children are checkpoints, a glob, a GGUF file, anything else that `load_model`
            takes; or a mapping from names to those, each also as `{"model": …, **options}`.
        at: places on the axis, one for each member in the order given (globs in natural order), or
            by name; by default the training steps that the names give.

    Raises `BadInput` for fewer than two members, one that is given twice, a checkpoint or folder
    that is missing, a glob without a model in it, and two members at one place.
    """
    notes: list[str] = []
    found = [member for name, given in _given(models) for member in _read(name, given, notes)]
    _refuse_few(found)
    _refuse_twice(found)
    named = _with_names(found)
    if at is not None:
        placed, axis, ordered = _at(named, at), GIVEN, True
    elif all(member.step is not None for member in named):
        placed = [replace(member, at=float(member.step or 0)) for member in named]
        axis, ordered = STEPS, True
    else:
        placed = [replace(member, at=float(i)) for i, member in enumerate(named)]
        axis, ordered = ORDER, False
        notes.append(_unordered(named))
    runs = {member.run for member in placed} if axis == STEPS else {""}
    if len(runs) == 1:
        placed = [replace(member, run="") for member in placed]
    else:
        placed = _short_runs(placed)
    _refuse_same_place(placed, axis)
    if not ordered:
        return Members(tuple(placed), axis, ordered, tuple(notes))
    inline = sorted(placed, key=lambda m: (natural(m.run), m.at))
    if [m.name for m in inline] != [m.name for m in placed]:
        notes.append(f"members are sorted by {axis}")
    return Members(tuple(inline), axis, ordered, tuple(notes))


def natural(text: str) -> list[Any]:
    """Key that sorts the numbers in a text by their values.

    >>> sorted(["step-10", "step-9"], key=natural)
    ['step-9', 'step-10']
    """
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def step_of(name: str) -> int | None:
    """Training step in the last part of a name, or None.

    >>> step_of("runs/pilot/checkpoint-500"), step_of("step1000"), step_of("gpt2-xl")
    (500, 1000, None)
    """
    last = name.rstrip("/").rpartition("/")[2]
    found = list(STEP.finditer(last))
    return int(found[-1][1]) if found else None


# ---- reading ---------------------------------------------------------------------------------


def _given(models: Any) -> Iterator[tuple[str, Any]]:
    """Pairs of a name, empty where none was given, and a model."""
    if isinstance(models, Mapping):
        yield from ((str(name), model) for name, model in models.items())
    elif isinstance(models, str | Path) or not isinstance(models, Iterable):
        yield "", models
    else:
        yield from (("", model) for model in models)


def _read(name: str, given: Any, notes: list[str]) -> list[Member]:
    options: dict[str, Any] = {}
    if isinstance(given, Mapping):
        options = {str(k): v for k, v in given.items() if k != "model"}
        if "model" not in given:
            raise BadInput(
                f"member {name!r} has the options {', '.join(options) or 'none'} and no model; "
                "write {'model': …, 'dtype': …}"
            )
        given = given["model"]
    if not isinstance(given, str | Path):
        own = name or str(getattr(getattr(given, "cfg", None), "model_name", type(given).__name__))
        return [Member(own, given, options)]
    read = _expanded(str(given), notes)
    if name and len(read) > 1:
        return [
            replace(m, name=f"{name}/{_last(m)}", options={**m.options, **options}) for m in read
        ]
    return [replace(m, name=name, options={**m.options, **options}) for m in read]


def _last(member: Member) -> str:
    return str(member.model).rstrip("/").rpartition("/")[2]


def _expanded(text: str, notes: list[str]) -> list[Member]:
    """The members behind one text: a model, a checkpoint of it, or all that a glob finds."""
    path = Path(text).expanduser()
    if text in NAMED or path.is_file():
        return [Member("", text)]
    if path.is_dir():
        return _of_folder(path, text, notes)
    if any(sign in text for sign in "*?["):
        return [m for found in _globbed(text, notes) for m in _of_folder(found, str(found), notes)]
    if "@" in text:
        return [_revision(text)]
    if text.startswith((".", "/", "~")) or text.count("/") > 1:
        raise BadInput(f"there is no model folder {text!r}{_nearest_place(path)}")
    return [Member("", text)]


def _of_folder(path: Path, text: str, notes: list[str]) -> list[Member]:
    """A model's folder, or the checkpoints in one that is no model itself."""
    checkpoints = _checkpoints(path) if path.is_dir() else []
    if path.is_dir() and not _is_model(path) and checkpoints:
        return [_checkpoint(child) for child in checkpoints]
    if checkpoints:
        notes.append(
            f"{text!r} is taken as one model; {len(checkpoints)} checkpoints lie in it: "
            f"{text.rstrip('/')}/{_pattern(checkpoints)} takes those"
        )
    return [_checkpoint(path)]


def _checkpoint(path: Path) -> Member:
    """A folder with the step and the run that its name gives."""
    step = step_of(path.name)
    if step is None:
        return Member("", str(path))
    begins = path.name[: list(STEP.finditer(path.name))[-1].start()].rstrip("-_.")
    return Member("", str(path), step=step, run=str(path.parent / begins))


def _checkpoints(path: Path) -> list[Path]:
    """Children of a folder that hold a model and have a step in their names, by that step."""
    try:
        children = [child for child in path.iterdir() if child.is_dir()]
    except OSError:
        return []
    known = [c for c in children if step_of(c.name) is not None and _is_model(c)]
    return sorted(known, key=lambda child: (step_of(child.name) or 0, natural(child.name)))


def _pattern(checkpoints: Sequence[Path]) -> str:
    return re.sub(r"\d+(?!.*\d)", "*", checkpoints[0].name)


def _is_model(path: Path) -> bool:
    """True for a model's folder, and for a GGUF file or a folder with one."""
    if path.is_file():
        return path.suffix.lower() == ".gguf"
    return (path / "config.json").is_file() or next(path.glob("*.gguf"), None) is not None


def _globbed(text: str, notes: list[str]) -> list[Path]:
    """Models that a glob finds, in natural order; other files are left out and counted."""
    path = Path(text).expanduser()
    root, pattern = Path(path.anchor or "."), str(path.relative_to(path.anchor))
    found = sorted(root.glob(pattern), key=lambda p: natural(str(p)))
    models = [p for p in found if _is_model(p) or (p.is_dir() and _checkpoints(p))]
    if not found:
        raise BadInput(f"{text!r} matches nothing{_nearest_place(path)}")
    if not models:
        listed = ", ".join(p.name for p in found[:FEW])
        raise BadInput(
            f"{text!r} matches {len(found)} paths and no model among them ({listed}); a model is a "
            "folder with config.json, or a .gguf file"
        )
    if len(found) > len(models):
        notes.append(f"{len(found) - len(models)} paths that {text!r} matches are no models")
    notes.append(f"{text!r} gave {len(models)} members, in natural order of their names")
    return models


def _revision(text: str) -> Member:
    """`NAME@REVISION` of the hub, or `FOLDER@STEP`."""
    base, _, revision = text.rpartition("@")
    path = Path(base).expanduser()
    if path.is_dir():
        return _child(path, revision)
    if base in NAMED:
        raise BadInput(
            f"{text!r} asks for a revision of {base!r}, a model of this library that has one only"
        )
    if base.startswith((".", "/", "~")) or base.count("/") > 1:
        raise BadInput(f"there is no model folder {base!r}{_nearest_place(path)}")
    number = int(revision) if revision.isdecimal() else step_of(revision)
    return Member("", base, {"revision": revision}, step=number, run=base)


def _child(path: Path, step: str) -> Member:
    names = [form.format(step) for form in CHILDREN]
    child = next((path / name for name in names if (path / name).is_dir()), None)
    if child is not None:
        found = _checkpoint(child)
        number = int(step) if step.isdecimal() else found.step
        return replace(found, step=number, run=found.run or str(path))
    there = _checkpoints(path)
    steps = [step_of(c.name) or 0 for c in there]
    if not steps:
        raise BadInput(
            f"there is no checkpoint {step!r} in {str(path)!r}, which has no folder such as "
            "checkpoint-500 or step-500 with a model in it"
        )
    near = f"; the nearest is {min(steps, key=lambda s: abs(s - int(step)))}"
    raise BadInput(
        f"there is no checkpoint {step!r} in {str(path)!r}{near if step.isdecimal() else ''} "
        f"(there are {_few(steps)})"
    )


def _nearest_place(path: Path) -> str:
    """What stands where a path leads nowhere: the nearest names, or all that are there."""
    parts = path.parts
    here = Path(parts[0]) if path.is_absolute() else Path()
    rest = list(parts[1:] if path.is_absolute() else parts)
    while rest and (here / rest[0]).is_dir():
        here = here / rest.pop(0)
    try:
        names = sorted((p.name for p in here.iterdir() if p.is_dir()), key=natural)
    except OSError:
        names = []
    wanted = rest[0] if rest else ""
    close = difflib.get_close_matches(wanted.replace("*", ""), names, n=3, cutoff=0.5)
    if close:
        listed = ", ".join(repr(str(here / name)) for name in close)
        return f"; the nearest folders are {listed}" if len(close) > 1 else f"; nearest: {listed}"
    return f"; in {str(here)!r} are the folders {_few(names)}" if names else ""


def _few(items: Sequence[Any]) -> str:
    shown = ", ".join(map(str, items[:FEW]))
    return f"{shown}, … {len(items) - FEW} more" if len(items) > FEW else shown


# ---- names -----------------------------------------------------------------------------------


def _with_names(members: Sequence[Member]) -> list[Member]:
    """The members with names: as much of the end of a path as tells all apart, else the text."""
    paths = {m.source: Path(m.source).absolute() for m in members if _is_local(m)}
    ends = _ends(list(paths.values()))

    def called(member: Member) -> str:
        if member.name:
            return member.name
        path = paths.get(member.source)
        return member.source if path is None else ends[path]

    names = [called(m) for m in members]
    twice = {name for name, n in Counter(names).items() if n > 1}
    return [
        replace(m, name=_numbered(name, i, m) if name in twice else name)
        for i, (m, name) in enumerate(zip(members, names, strict=True))
    ]


def _ends(paths: Sequence[Path]) -> dict[Path, str]:
    """The last parts of every path, as many as tell all of them apart."""
    if len(paths) == 1:
        return {paths[0]: own_name(paths[0])}
    for count in range(1, max((len(p.parts) for p in paths), default=0) + 1):
        ends = {p: "/".join(p.parts[-count:]) for p in paths}
        if len(set(ends.values())) == len(ends):
            return ends
    return {}


def _numbered(name: str, i: int, member: Member) -> str:
    """A name that two members would have, told apart by the source or the place in the list."""
    return member.source if _is_local(member) else f"{name} ({i + 1})"


def _is_local(member: Member) -> bool:
    return (
        isinstance(member.model, str | Path)
        and str(member.model) not in NAMED
        and Path(member.model).exists()
    )


def _short_runs(members: Sequence[Member]) -> list[Member]:
    """Runs without the folders that all have in common."""
    runs = {m.run for m in members}
    local = [r for r in runs if Path(r).is_absolute() or Path(r).parent.exists()]
    common = os.path.commonpath(local) if len(local) == len(runs) else ""
    short = {r: os.path.relpath(r, common) if common else r for r in runs}
    return [replace(m, run=short[m.run]) for m in members]


# ---- places ----------------------------------------------------------------------------------


def _at(members: Sequence[Member], at: Any) -> list[Member]:
    names = [m.name for m in members]
    if isinstance(at, Mapping):
        for name in at:
            if name not in names:
                raise BadInput(
                    f"at= names {name!r}, which is no member{nearest(str(name), names)} "
                    f"({_few(names)})"
                )
        lacking = [name for name in names if name not in at]
        if lacking:
            raise BadInput(f"at= lacks a place for {_few(lacking)}")
        places = [at[name] for name in names]
    else:
        places = list(at)
    if len(places) != len(members):
        raise BadInput(
            f"at= has {len(places)} places and the series {len(members)} members "
            f"({_few(names)}); give one for each"
        )
    try:
        numbers = [float(place) for place in places]
    except (TypeError, ValueError) as error:
        raise BadInput(f"at= holds {error}; places are numbers") from error
    return [replace(m, at=x) for m, x in zip(members, numbers, strict=True)]


def _unordered(members: Sequence[Member]) -> str:
    lacking = [m.name for m in members if m.step is None]
    some = len(lacking) < len(members)
    return (
        f"{_few(lacking) if some else 'the names'} {'give' if not some else 'gives'} no training "
        "step, so the members stand in the order given; at= (--at) places them on an axis"
    )


# ---- refusals --------------------------------------------------------------------------------


def _refuse_few(members: Sequence[Member]) -> None:
    if len(members) < 2:
        seen = f"only {members[0].name or members[0].source!r}" if members else "nothing"
        raise BadInput(
            f"a series has two members at least, and {seen} was given; a folder of checkpoints or "
            "a glob such as runs/pilot/checkpoint-* gives several, and interp.run (interp run) "
            "measures one model"
        )


def _refuse_twice(members: Sequence[Member]) -> None:
    """Raises for a model that is given twice without names of its own."""
    seen: dict[Any, Member] = {}
    for member in members:
        local = _is_local(member)
        path = os.path.realpath(str(member.model)) if local else member.source
        key = (path, repr(sorted(member.options.items())))
        if not isinstance(member.model, str | Path):
            key = (id(member.model), "")  # type: ignore[assignment]
        other = seen.setdefault(key, member)
        if other is not member and not (member.name and other.name):
            raise BadInput(
                f"{member.source!r} is in the series twice; to compare a model with itself give "
                "both a name: {'a': …, 'b': …} (a=MODEL b=MODEL at a shell)"
            )


def _refuse_same_place(members: Sequence[Member], axis: str) -> None:
    seen: dict[tuple[str, float], Member] = {}
    for member in members:
        other = seen.setdefault((member.run, member.at), member)
        if other is not member:
            raise BadInput(
                f"{other.name!r} and {member.name!r} both stand at {axis} {member.at:g}; leave one "
                "out, or place the members with at= (--at)"
            )
