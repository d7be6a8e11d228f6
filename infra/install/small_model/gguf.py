"""Reader of a GGUF file: parses the metadata and maps the tensors, in a second.

The reader of the `gguf` package builds a view for each of 262,144 vocabulary entries and takes 12 s
here; tests use that package as the oracle. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md

Blocks are dequantised to fp32 with numpy. Their layouts are ggml's (ggml-common.h, ggml-quants.c).
N is the number of blocks; every function of a layout takes [N, size_bytes] uint8 and returns
[N, values] fp32.
"""

import mmap
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from infra.install.small_model.errors import ModelError

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]


def _half(blocks: Bytes, at: int) -> Floats:
    return blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32)  # [N, 1]


def _q8_0(blocks: Bytes) -> Floats:
    return _half(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _q5_0(blocks: Bytes) -> Floats:
    fifth_bits = (
        blocks[:, 2:6].copy().view(np.uint32) >> np.arange(32, dtype=np.uint32) & 1
    )  # [N, 32]
    # A byte holds value i in its low half and value i + 16 in its high half.
    low, high = blocks[:, 6:] & 0x0F, blocks[:, 6:] >> 4
    quants = np.concatenate([low, high], axis=1).astype(np.int8) | (fifth_bits << 4).astype(np.int8)
    return _half(blocks, 0) * (quants - 16).astype(np.float32)


def _q4_k(blocks: Bytes) -> Floats:
    # Twelve bytes hold eight 6-bit scales and minima. The upper two bits of the last four values
    # are stored in the bytes of the first four.
    scale_low, minimum_low, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scale_high, minimum_high = scale_low >> 2 & 0x30, minimum_low >> 2 & 0x30
    scales = np.concatenate([scale_low & 0x3F, (rest & 0x0F) | scale_high], axis=1)  # [N, 8]
    minima = np.concatenate([minimum_low & 0x3F, (rest >> 4) | minimum_high], axis=1)  # [N, 8]
    # 128 bytes are four groups of 32; the low halves precede the high halves: [N, 4, 2, 32].
    pairs = (
        blocks[:, 16:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
        & 0x0F
    )
    quants = pairs.reshape(-1, 8, 32).astype(np.float32)
    steps = _half(blocks, 0) * scales.astype(np.float32)
    offsets = _half(blocks, 2) * minima.astype(np.float32)
    return (steps[:, :, None] * quants - offsets[:, :, None]).reshape(-1, 256)


def _q6_k(blocks: Bytes) -> Floats:
    # Low four bits: two groups of 64 bytes, low halves first. High two bits: two groups of 32 bytes
    # with four values per byte. Both yield 256 values in the same order.
    low = (
        blocks[:, :128].reshape(-1, 2, 1, 64) >> np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
        & 0x0F
    )
    high = (
        blocks[:, 128:192].reshape(-1, 2, 1, 32)
        >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)
        & 0x03
    )
    quants = (low.reshape(-1, 256) | (high.reshape(-1, 256) << 4)).astype(np.int8) - 32
    scales = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)  # [N, 16]
    return (scales[:, :, None] * quants.reshape(-1, 16, 16).astype(np.float32)).reshape(-1, 256)


@dataclass(frozen=True)
class Block:
    """A quantisation format: number of values and bytes per block, and the decoder."""

    values: int
    size_bytes: int
    decode: Callable[[Bytes], Floats]


# Formats by ggml_type, limited to those in Q4_K_M files of small models.
BLOCKS = {
    0: Block(1, 4, lambda blocks: blocks.copy().view(np.float32)),
    1: Block(1, 2, lambda blocks: blocks.copy().view(np.float16).astype(np.float32)),
    6: Block(32, 22, _q5_0),
    8: Block(32, 34, _q8_0),
    12: Block(256, 144, _q4_k),
    14: Block(256, 210, _q6_k),
}


def dequantise(raw: Bytes, block_type: int) -> Floats:
    """Decode the raw bytes of a tensor into flat fp32 values."""
    block = BLOCKS[block_type]
    return block.decode(raw.reshape(-1, block.size_bytes)).reshape(-1)


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
