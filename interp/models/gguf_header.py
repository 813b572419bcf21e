"""The head of a GGUF file: what kind of file it is, its metadata, and the types of its tensors.

Read before a model is loaded, so that every fault has its own words: transformers reads a file that
is cut short until it fails inside NumPy. Knows the format; nothing of models.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import BadInput

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?"}
_NUMBERS |= {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_AGAIN = "download it again"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of the file: `shape` in torch's order, `kind` its number in ggml, where it begins.

    `offset` counts from the start of the tensors' bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


@dataclass(frozen=True)
class Header:
    """What stands before the tensors.

    Attributes:
        path: the file.
        metadata: values by key; of an array of texts only its length.
        tensors: in the order of the file.
        start: where the bytes of the tensors begin.
        size: bytes of the file.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: tuple[StoredTensor, ...]
    start: int
    size: int

    @classmethod
    def of(cls, path: Path) -> Header:
        """Reads the head of a file.

        Raises `BadInput` for a file that is no GGUF, of another version, or cut within its head.
        """
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_magic(path, file.read(16))
            file.seek(0)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                try:
                    return _parsed(path, data, size)
                except (struct.error, IndexError, UnicodeDecodeError, KeyError) as error:
                    raise BadInput(
                        f"{str(path)!r} ends within its head ({size:,} bytes) or is damaged "
                        f"({error}); {_AGAIN}"
                    ) from error

    @property
    def architecture(self) -> str:
        """Name of the architecture, in the words of llama.cpp."""
        return str(self.metadata.get("general.architecture", "unknown"))

    def types(self) -> dict[str, int]:
        """Number of tensors of each type, by its name in ggml, most frequent first.

        Raises `BadInput` for a type that the installed gguf does not know.
        """
        names = Counter(self._kind(tensor).name for tensor in self.tensors)
        return dict(names.most_common())

    def check_whole(self) -> None:
        """Raises `BadInput` if the file ends before its last tensor does."""
        from gguf import GGML_QUANT_SIZES

        end = self.start
        for tensor in self.tensors:
            numbers, size = GGML_QUANT_SIZES[self._kind(tensor)]
            blocks = numbers_in(tensor) // numbers
            end = max(end, self.start + tensor.offset + blocks * size)
        if self.size < end:
            raise BadInput(
                f"{str(self.path)!r} is cut short: it has {self.size:,} bytes of {end:,}; {_AGAIN}"
            )

    def _kind(self, tensor: StoredTensor) -> Any:
        from gguf import GGMLQuantizationType

        try:
            return GGMLQuantizationType(tensor.kind)
        except ValueError as error:
            raise BadInput(
                f"{str(self.path)!r}: tensor {tensor.name} has type {tensor.kind}, which the "
                "installed package gguf does not know; a newer gguf may (pip install -U gguf)"
            ) from error


def numbers_in(tensor: StoredTensor) -> int:
    """Number of numbers of a tensor."""
    return math.prod(tensor.shape)


def is_gguf(path: Path) -> bool:
    """True for a file that begins as a GGUF does, or is called so."""
    if not path.is_file():
        return False
    if path.suffix.lower() == ".gguf":
        return True
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def _check_magic(path: Path, head: bytes) -> None:
    if head[:4] != MAGIC:
        pointer = head.startswith(b"version https://")
        is_ = "a pointer of git LFS: git lfs pull fetches the file" if pointer else "another format"
        raise BadInput(
            f"{str(path)!r} is no GGUF file: it begins with {head[:4]!r}, expected {MAGIC!r} "
            f"({is_ if head else 'it is empty'})"
        )
    version = int.from_bytes(head[4:8], "little")
    if version in VERSIONS:
        return
    known = " and ".join(map(str, VERSIONS))
    if int.from_bytes(head[4:8], "big") in VERSIONS:
        raise BadInput(
            f"{str(path)!r} is a big-endian GGUF, which transformers does not read; convert it "
            "with gguf-convert-endian of the package gguf"
        )
    raise BadInput(f"{str(path)!r} is GGUF version {version}; known are {known}")


def _parsed(path: Path, data: mmap.mmap, size: int) -> Header:
    n_tensors, n_values = struct.unpack_from("<QQ", data, 8)
    at, metadata = 24, {}
    for _ in range(n_values):
        key, at = _text(data, at)
        metadata[key], at = _value(data, at)
    tensors = []
    for _ in range(n_tensors):
        name, at = _text(data, at)
        (n_axes,) = struct.unpack_from("<I", data, at)
        shape = struct.unpack_from(f"<{n_axes}Q", data, at + 4)
        at += 4 + 8 * n_axes
        kind, offset = struct.unpack_from("<IQ", data, at)
        at += 12
        # ggml writes the axis that moves fastest first.
        tensors.append(StoredTensor(name, tuple(reversed(shape)), kind, offset))
    unit = int(metadata.get("general.alignment", 32))
    return Header(path, metadata, tuple(tensors), -(-at // unit) * unit, size)


def _text(data: mmap.mmap, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from("<Q", data, at)
    end = at + 8 + length
    if end > len(data):
        raise IndexError(f"a text at byte {at:,} would end at byte {end:,}")
    return data[at + 8 : end].decode("utf-8"), end


def _value(data: mmap.mmap, at: int) -> tuple[Any, int]:
    """A value and where it ends."""
    (kind,) = struct.unpack_from("<I", data, at)
    at += 4
    if kind == _STRING:
        return _text(data, at)
    if kind != _ARRAY:
        code = "<" + _NUMBERS[kind]
        return struct.unpack_from(code, data, at)[0], at + struct.calcsize(code)
    kind, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if kind != _STRING:
        code = f"<{count}{_NUMBERS[kind]}"
        if at + struct.calcsize(code) > len(data):
            raise IndexError(f"a list of {count:,} numbers at byte {at:,} is longer than the file")
        return list(struct.unpack_from(code, data, at)), at + struct.calcsize(code)
    for _ in range(count):  # a vocabulary: nothing here needs its texts
        (length,) = struct.unpack_from("<Q", data, at)
        at += 8 + length
    return count, at
