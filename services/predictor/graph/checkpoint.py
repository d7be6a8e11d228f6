"""Tensors of one or several safetensors files, memory-mapped and read lazily.

A checkpoint is never in memory twice. Format: 8 bytes little-endian header length, a JSON header,
then raw tensors (github.com/huggingface/safetensors). numpy has no bfloat16, so values are read as
uint16 and widened manually.
"""

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.predictor.errors import ModelRefusedError

Float32 = npt.NDArray[np.float32]
DTYPES: dict[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
TORCH_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """Location of the bytes of one tensor."""

    file: mmap.mmap
    offset: int
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """All tensors of a model directory by name; values are returned as float32."""

    def __init__(self, directory: Path) -> None:
        self._locations: dict[str, TensorLocation] = {}
        for name in weight_files(directory):
            self._locations.update(_read_header(directory / name))

    def __contains__(self, name: str) -> bool:
        return name in self._locations

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor.

        Raises:
            ModelRefusedError: the checkpoint has no tensor of this name.
        """
        return self._location(name).shape

    def torch_dtype(self, name: str) -> str:
        """Return the stored type as named by torch: float32, float16 or bfloat16."""
        return TORCH_NAMES[self._location(name).dtype]

    def read(self, name: str, rows: slice = slice(None)) -> Float32:
        """Return a tensor, or a slice of its rows, as a new float32 array."""
        location = self._location(name)
        stored = np.frombuffer(
            location.file, DTYPES[location.dtype], math.prod(location.shape), location.offset
        )
        part = stored.reshape(location.shape)[rows]
        if location.dtype == "BF16":
            # bfloat16 is the upper half of a float32.
            return (part.astype(np.uint32) << 16).view(np.float32)
        return part.astype(np.float32)

    def _location(self, name: str) -> TensorLocation:
        try:
            return self._locations[name]
        except KeyError:
            raise ModelRefusedError(
                f"the checkpoint has no tensor {name}", field=name, reason="MISSING"
            ) from None


def weight_files(directory: Path) -> tuple[str, ...]:
    """Return the names of the model's safetensors files: those of the index, or the single file.

    Raises:
        ModelRefusedError: both are missing, or the index names a path outside the directory.
    """
    index = directory / INDEX_NAME
    if not index.is_file():
        if not (directory / SINGLE_NAME).is_file():
            raise ModelRefusedError(
                f"{SINGLE_NAME} and {INDEX_NAME} are missing",
                field=SINGLE_NAME,
                reason="MISSING",
            )
        return (SINGLE_NAME,)
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise ModelRefusedError(
                f"{INDEX_NAME} names a missing shard: {name}", field=name, reason="MISSING"
            )
    return tuple(names)


def _read_header(path: Path) -> dict[str, TensorLocation]:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    try:
        header: dict[str, Any] = json.loads(mapped[8:start])
    except ValueError as error:
        raise ModelRefusedError(
            f"{path.name} is not a safetensors file", field=path.name, reason="MALFORMED"
        ) from error
    locations: dict[str, TensorLocation] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        where = f"{path.name}: {name}"
        dtype, shape = entry["dtype"], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if dtype not in DTYPES:
            raise ModelRefusedError(
                f"{where} has type {dtype}; supported are {', '.join(DTYPES)}",
                field=where,
                reason="UNSUPPORTED",
                limit=", ".join(DTYPES),
            )
        if (
            end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
            or not 0 <= begin <= end <= len(mapped) - start
        ):
            raise ModelRefusedError(
                f"{where} is outside of the file; the file is truncated or damaged",
                field=where,
                reason="DAMAGED",
            )
        locations[name] = TensorLocation(mapped, start + begin, dtype, shape)
    return locations
