"""Reader and writer of safetensors files with numpy, one tensor at a time.

numpy has no bf16, so bf16 values are stored as uint16 bits. The format is 8 bytes of header length,
a JSON header, the data (https://github.com/huggingface/safetensors#format).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from infra.install.small_model.errors import ModelError

Floats: TypeAlias = npt.NDArray[np.float32]
Bits: TypeAlias = npt.NDArray[np.uint16]

_STORED: Mapping[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}


def to_bfloat16(values: Floats) -> Bits:
    """Round finite values to bf16: to nearest, ties to even, as torch does."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # Adding 0x7FFF, plus the lowest kept bit, carries into bit 16 exactly when rounding up.
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def from_bfloat16(bits: Bits) -> Floats:
    """Convert bf16 bits to fp32 without loss."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class TensorFile:
    """Parsed header of a safetensors file."""

    path: Path
    entries: Mapping[str, Mapping[str, Any]]
    data_start_bytes: int

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(self.entries[name]["shape"])

    def tensor(self, name: str) -> Floats:
        """Return a tensor in fp32.

        Raises:
            ModelError: the stored type is unsupported.
        """
        entry = self.entries[name]
        if entry["dtype"] not in _STORED:
            raise ModelError(
                f"{self.path.name}: {name} is {entry['dtype']}, "
                f"expected one of {', '.join(_STORED)}",
                field=name,
                reason="UNSUPPORTED",
                limit=", ".join(_STORED),
            )
        first, end = entry["data_offsets"]
        stored = _STORED[entry["dtype"]]
        at = self.data_start_bytes + first
        values = np.memmap(self.path, stored, "r", at, ((end - first) // stored.itemsize,)).reshape(
            entry["shape"]
        )
        return from_bfloat16(values) if entry["dtype"] == "BF16" else values.astype(np.float32)


def open_tensors(path: Path) -> TensorFile:
    """Parse the header of a safetensors file.

    Raises:
        ModelError: the file is not a safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ModelError(
                f"{path.name}: not a safetensors file",
                field=path.name,
                reason="MALFORMED",
                limit="safetensors",
            )
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return TensorFile(path, header, 8 + length)


def write_bfloat16(
    shapes: Mapping[str, Sequence[int]], tensor: Callable[[str], Floats], path: Path
) -> None:
    """Write tensors as bf16, in the order of `shapes`; only a single tensor is in memory."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        first, end = end, end + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [first, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in shapes:
            file.write(to_bfloat16(tensor(name)).tobytes())
