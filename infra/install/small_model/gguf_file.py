"""Reader of a GGUF file: parses the metadata and maps the tensors, in a second.

The reader of the `gguf` package builds a view for each of 262,144 vocabulary entries and takes 12 s
here; tests use that package as the oracle. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from infra.install.small_model.errors import ModelError
from infra.install.small_model.gguf_blocks import BLOCKS, dequantise

_TYPE_CODES = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_DEFAULT_ALIGNMENT_BYTES = 32

Value: TypeAlias = int | float | bool | str | list[int] | list[float] | list[bool] | list[str]


@dataclass(frozen=True)
class TensorLocation:
    """Location of a tensor's blocks. `shape` is row-major, the reverse of the order in the file."""

    shape: tuple[int, ...]
    block_type: int
    offset_bytes: int


@dataclass(frozen=True)
class GgufFile:
    """Metadata and tensor locations of a GGUF file."""

    path: Path
    metadata: dict[str, Value]
    locations: dict[str, TensorLocation]

    def tensor(self, name: str, rows: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return a tensor in fp32, row-major.

        If `rows` is given, only these rows are decoded.
        """
        place = self.locations[name]
        block = BLOCKS[place.block_type]
        values = int(np.prod(place.shape))
        raw = np.memmap(
            self.path,
            np.uint8,
            "r",
            place.offset_bytes,
            (values // block.values * block.size_bytes,),
        )
        if rows is None:
            return dequantise(raw, place.block_type).reshape(place.shape)
        chosen = raw.reshape(place.shape[0], -1)[list(rows)]
        return dequantise(chosen, place.block_type).reshape(len(rows), *place.shape[1:])

    def texts(self, key: str) -> list[str]:
        """Return a list of strings from the metadata.

        Raises:
            ModelError: the field is missing.
        """
        found = self.metadata.get(key)
        if not isinstance(found, list):
            raise ModelError(
                f"{self.path.name}: metadata field {key!r} is missing", field=key, reason="MISSING"
            )
        return [str(item) for item in found]

    def numbers(self, key: str) -> list[float]:
        """Return a list of numbers from the metadata."""
        return [float(item) for item in self.texts(key)]


class _Cursor:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = 0

    def scalar(self, code: str) -> int | float | bool:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize(code)
        found: int | float | bool = value
        return found

    def count(self, code: str = "Q") -> int:
        return int(self.scalar(code))

    def string(self) -> str:
        length = self.count()
        text = self.data[self.at : self.at + length].decode()
        self.at += length
        return text

    def value(self, kind: int) -> Value:
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            return self.scalar(_TYPE_CODES[kind])
        item, length = self.count("I"), self.count()
        if item == _STRING:
            return [self.string() for _ in range(length)]
        code = f"{length}{_TYPE_CODES[item]}"
        values = list(struct.unpack_from("<" + code, self.data, self.at))
        self.at += struct.calcsize("<" + code)
        return values


def read_gguf(path: Path) -> GgufFile:
    """Parse the header of a GGUF file; tensors stay on disk until read.

    Raises:
        ModelError: the file has another format or version.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        cursor = _Cursor(data)
        if data[:4] != b"GGUF":
            raise ModelError(
                f"{path.name}: not a GGUF file", field=path.name, reason="MALFORMED", limit="GGUF"
            )
        cursor.at = 4
        version = cursor.count("I")
        if version not in (2, 3):
            raise ModelError(
                f"{path.name}: GGUF version {version}, expected 2 or 3",
                field=path.name,
                reason="UNSUPPORTED",
                limit="2, 3",
            )
        tensors, fields = cursor.count(), cursor.count()
        metadata = {cursor.string(): cursor.value(cursor.count("I")) for _ in range(fields)}
        headers = []
        for _ in range(tensors):
            name, dimensions = cursor.string(), cursor.count("I")
            shape = tuple(reversed([cursor.count() for _ in range(dimensions)]))
            headers.append((name, shape, cursor.count("I"), cursor.count()))
        alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT_BYTES)
        # Tensor data start at the next multiple of the alignment.
        start = cursor.at + -cursor.at % int(str(alignment))
    locations = {
        name: TensorLocation(shape, kind, start + offset) for name, shape, kind, offset in headers
    }
    return GgufFile(path, metadata, locations)
