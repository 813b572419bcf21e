"""Members of a series on the disk: what was measured, what failed, and what is left.

A member is a folder of `Results`, or of a corpus run, and a sealed record next to it; the listing
`series.json` has the settings of the whole series. Knows files; runs nothing.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from interp._files import (
    SERIES,
    discard,
    json_value,
    kind_of,
    make_folder,
    read_sealed,
    refuse_existing,
    whole_folder,
    write_sealed,
)
from interp.errors import BadInput, InterpError
from interp.runs.corpus.output import CorpusTables, open_run
from interp.runs.results import CORPUS, Results, refuse_newer
from interp.runs.saved import load_results
from interp.runs.series.members import Member

SCHEMA = 1
MEMBERS = "members"
REMEDY = "run the series again with resume (--resume), which measures that member again"
MEASURED, FAILED, WAITING = "measured", "failed", "waiting"
SAME = ("schema", "parameters", "prompts", "versions")
"""Parts of a listing that have to agree for a series to be resumed."""
_MAY_DIFFER = ("python", "platform")


def folder_of(out: Path, name: str) -> Path:
    """Folder of a member's results: its name as far as a disk takes it, and what makes it unique.

    >>> folder_of(Path("out"), "pilot/step-5").name[:13]
    'pilot_step-5-'
    """
    plain = re.sub(r"[^\w.@-]+", "_", name).strip(".")[:60]
    return out / MEMBERS / f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def record_of(member: Member, **more: Any) -> dict[str, Any]:
    """What is known of a member before it is loaded, as JSON values."""
    return {
        "member": member.name,
        "at": member.at,
        "run": member.run,
        "source": member.source,
        "options": {k: str(v) for k, v in member.options.items()},
        "files": stamp(member.model),
        "status": WAITING,
        "error": "",
        **more,
    }


def stamp(model: Any) -> list[list[Any]] | None:
    """Names, sizes and times of a local model's files: other files are another model.

    None for what is not on this disk under its own name.
    """
    if not isinstance(model, str | Path) or kind_of(Path(model)) is None:
        return None
    path = Path(model)
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.is_file())
    stats = ((file.name, file.stat()) for file in files)
    return [[name, found.st_size, found.st_mtime_ns] for name, found in stats]


class Folder:
    """The output folder of a series."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def check(self, listing: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Raises `BadInput` where the folder is taken or has another series."""
        if resume and kind_of(self.out / SERIES) is not None:
            refuse_difference(self.out, read_listing(self.out), listing)
        else:
            refuse_existing(self.out, overwrite=overwrite)

    def begin(self, listing: Mapping[str, Any], *, resume: bool) -> None:
        """Makes the folder ready, without the members of an earlier series unless `resume`."""
        if not resume:
            shutil.rmtree(self.out / MEMBERS, ignore_errors=True)
        make_folder(self.out / MEMBERS)
        write_sealed(self.out / SERIES, listing, json_value)

    def finished(self, member: Member) -> dict[str, Any] | None:
        """The record of a member that is measured already; None if it has to be measured."""
        # A damaged member is measured again, which repairs the series.
        with suppress(InterpError):
            record = self.record(member.name)
            now = record_of(member)
            same = all(record[key] == now[key] for key in ("source", "options", "files"))
            if same and record["status"] == MEASURED:
                _verify(folder_of(self.out, member.name))
                return record
        return None

    def record(self, name: str) -> dict[str, Any]:
        """The record of a member; raises `InterpError` where there is none."""
        return read_sealed(record_path(self.out, name), REMEDY)

    def keep(self, record: Mapping[str, Any], results: Results | None) -> None:
        """Writes a measured member and then its record; the record alone without results.

        A member that failed has none, and one of a corpus has written its own.
        """
        place = folder_of(self.out, record["member"])
        # The record goes first and comes last: it says that the folder is of this very model.
        discard(record_path(self.out, record["member"]))
        if results is not None:
            with whole_folder(place, overwrite=True) as temporary:
                results.write(temporary)
        write_sealed(record_path(self.out, record["member"]), record, json_value)

    def write_listing(self, listing: Mapping[str, Any]) -> None:
        """Writes the listing again, with all members."""
        write_sealed(self.out / SERIES, listing, json_value)


def _verify(place: Path) -> None:
    """Raises `InterpError` for a member's folder that is damaged or not finished."""
    if not kind_of(place / CORPUS):
        load_results(place, REMEDY)
        return
    found = open_run(place)
    for table in found.values() if isinstance(found, CorpusTables) else ():
        table.verify()


def results_in(place: Path) -> Results:
    """The results of a member; the rows of a corpus run are loaded into memory.

    Raises `BadInput` for more rows than `CorpusTables.whole` loads.
    """
    if not kind_of(place / CORPUS):
        return load_results(place, REMEDY)
    found = open_run(place)
    return found.whole() if isinstance(found, CorpusTables) else found


def record_path(out: Path, name: str) -> Path:
    """File with the record of a member, next to the folder of its results."""
    return folder_of(out, name).with_name(folder_of(out, name).name + ".json")


def latest(out: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a member that the listing has as waiting: it may be on the disk already."""
    if record["status"] == WAITING:
        with suppress(InterpError):
            found = read_sealed(record_path(out, record["member"]), REMEDY)
            if all(found[key] == record[key] for key in ("source", "options", "files")):
                return {**found, "at": record["at"], "run": record["run"]}
    return dict(record)


def read_listing(out: Path) -> dict[str, Any]:
    """The listing of a series; raises `BadInput` for one of a newer version."""
    if kind_of(out / SERIES) is None:
        raise BadInput(f"{str(out)!r} holds no series (no {SERIES} in it)")
    listing = read_sealed(out / SERIES, "run the series again with overwrite (--overwrite)")
    refuse_newer(out, listing["schema"], SCHEMA)
    return listing


def refuse_difference(out: Path, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raises `BadInput` for settings, prompts or versions that are not those of the series."""
    found = list(_differences("", *({k: one.get(k) for k in SAME} for one in (earlier, now))))
    if found:
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise BadInput(
            f"the series in {str(out)!r} is another one and cannot be resumed: "
            f"{'; '.join(found[:4])}{more}. Use another folder, or repeat the original settings"
        )


def _differences(path: str, a: Any, b: Any) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted({*a, *b} - set(_MAY_DIFFER)):
            yield from _differences(f"{path}.{key}".lstrip("."), a.get(key), b.get(key))
    elif a != b:
        yield f"{path} was {_short(a)}, now {_short(b)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class SavedResults(Mapping[str, Results]):
    """Results of the measured members, read from the disk each time that they are asked for."""

    def __init__(self, out: Path, names: Sequence[str]) -> None:
        self._out, self._names = out, tuple(names)

    def __getitem__(self, name: str) -> Results:
        if name not in self._names:
            raise KeyError(name)
        return results_in(folder_of(self._out, name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
