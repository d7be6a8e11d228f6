"""Tensors of one or several safetensors files, mapped and read lazily: a checkpoint never lies
twice in memory.

Format: 8 bytes little-endian header length, a JSON header, then raw tensors
    (github.com/huggingface/safetensors).
numpy has no bfloat16, so it is read as uint16 and widened by hand.
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
class TensorPlace:
    """Where a tensor's bytes lie."""

    file: mmap.mmap
    offset: int
    dtype: str
    shape: tuple[int, ...]


class Checkpoint:
    """All tensors of a model directory by name. Every value comes out as float32."""

    def __init__(self, directory: Path) -> None:
        self._places: dict[str, TensorPlace] = {}
        for name in weight_files(directory):
            self._places.update(_read_header(directory / name))

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. Raises ModelRefusedError if the checkpoint has none of this name."""
        return self._place(name).shape

    def torch_dtype(self, name: str) -> str:
        """The stored type, in torch's words: float32, float16 or bfloat16."""
        return TORCH_NAMES[self._place(name).dtype]

    def read(self, name: str, rows: slice = slice(None)) -> Float32:
        """A tensor, or some of its rows, as a new float32 array."""
        place = self._place(name)
        stored = np.frombuffer(
            place.file, DTYPES[place.dtype], math.prod(place.shape), place.offset
        )
        part = stored.reshape(place.shape)[rows]
        if place.dtype == "BF16":
            return (part.astype(np.uint32) << 16).view(np.float32)
        return part.astype(np.float32)

    def _place(self, name: str) -> TensorPlace:
        try:
            return self._places[name]
        except KeyError:
            raise ModelRefusedError(
                f"the checkpoint has no tensor {name}", field=name, reason="MISSING"
            ) from None


def weight_files(directory: Path) -> tuple[str, ...]:
    """Names of the safetensors files that make up the model: those of the index, or the single
    file.

    Raises:
        ModelRefusedError: there is neither, or the index names a path outside the directory.
    """
    index = directory / INDEX_NAME
    if not index.is_file():
        if not (directory / SINGLE_NAME).is_file():
            raise ModelRefusedError(
                f"{SINGLE_NAME} is missing (nor is there {INDEX_NAME})",
                field=SINGLE_NAME,
                reason="MISSING",
            )
        return (SINGLE_NAME,)
    names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    for name in names:
        if Path(name).name != name or not (directory / name).is_file():
            raise ModelRefusedError(
                f"{INDEX_NAME} names a shard that is missing: {name}", field=name, reason="MISSING"
            )
    return tuple(names)


def _read_header(path: Path) -> dict[str, TensorPlace]:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    try:
        header: dict[str, Any] = json.loads(mapped[8:start])
    except ValueError as error:
        raise ModelRefusedError(
            f"{path.name} is not a safetensors file", field=path.name, reason="MALFORMED"
        ) from error
    return {
        name: _checked_place(mapped, start, entry, f"{path.name}: {name}")
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _checked_place(mapped: mmap.mmap, start: int, entry: dict[str, Any], where: str) -> TensorPlace:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if dtype not in DTYPES:
        raise ModelRefusedError(
            f"{where} has type {dtype}; only {', '.join(DTYPES)} are read",
            field=where,
            reason="UNSUPPORTED",
            limit=", ".join(DTYPES),
        )
    if (
        end - begin != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize
        or not 0 <= begin <= end <= len(mapped) - start
    ):
        raise ModelRefusedError(
            f"{where} lies outside the file: it is cut short or damaged",
            field=where,
            reason="DAMAGED",
        )
    return TensorPlace(mapped, start + begin, dtype, shape)
