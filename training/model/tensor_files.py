"""Reading of untrusted safetensors files; every defect raises a CheckpointError with the file name.

The library checks header sizes and offsets and executes nothing. Loading a pickle executes code, so
pickles are never read. Commands check files before an import of torch, so only `read_tensors`
imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from training.errors import DetailedError, details_of
from training.model.fields import ModelConfigError, read_object

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
STORED_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
PICKLE_BEGINS = (b"\x80", b"PK\x03\x04")  # pickle protocol marker; zip header written by torch


class CheckpointError(DetailedError, ValueError):
    """Error for unreadable weights or weights that do not fit config.json."""

    reason = "INVALID_CHECKPOINT"


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a model: those in the index, or the single file.

    Raises:
        CheckpointError: there is no file, the index is broken, or a listed file is missing or
            elsewhere.
    """
    if not (directory / INDEX).exists():
        if not (directory / WEIGHTS).exists():
            raise _missing(directory)
        return [directory / WEIGHTS]
    try:
        weight_map = read_object(directory / INDEX).get("weight_map")
    except ModelConfigError as error:
        raise CheckpointError(str(error), **details_of(error)) from error
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise CheckpointError(
            f"{INDEX}: weight_map must map each tensor to a file",
            field="weight_map",
            reason="WRONG_TYPE" if weight_map else "EMPTY",
        )
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{INDEX}: {shard!r} is not the name of a safetensors file in the same directory",
                field=shard,
                reason="UNSUPPORTED",
            )
        if not (directory / shard).is_file():
            raise CheckpointError(
                f"{INDEX}: names {shard}, which is missing", field=shard, reason="MISSING"
            )
    return [directory / shard for shard in shards]


def read_tensors(
    file: Path, dtype: torch.dtype, skip: Callable[[str], bool] = lambda name: False
) -> dict[str, Tensor]:
    """Return all tensors of a file, cast to `dtype`, on the CPU.

    Args:
        skip: returns True for the names of unwanted tensors of any type.

    Raises:
        CheckpointError: the file is not a valid safetensors file, or a tensor has another type than
            floating point, or contains NaN or infinity.
    """
    import torch

    tensors: dict[str, Tensor] = {}
    # The library allocates its buffers on the default device.
    with torch.device("cpu"), _opened(file, "pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - safe_open is not a mapping
            if skip(name):
                continue
            stored = opened.get_slice(name).get_dtype()
            if stored not in STORED_TYPES:
                raise CheckpointError(
                    f"{file.name}: {name} has type {stored}; supported: {', '.join(STORED_TYPES)}",
                    field=name,
                    reason="UNSUPPORTED",
                    limit=", ".join(STORED_TYPES),
                )
            tensors[name] = opened.get_tensor(name).to(dtype)
            # A sum needs one pass and no copy. Weights near the largest float also fail, being as
            # useless.
            if not torch.isfinite(tensors[name].sum(dtype=torch.float32)):
                raise CheckpointError(
                    f"{file.name}: {name} is not finite"
                    " (NaN, infinity, or close to the largest float)",
                    field=name,
                    reason="NOT_FINITE",
                )
    return tensors


def stored_tensors(file: Path) -> dict[str, tuple[str, int]]:
    """Return the stored type (BF16, I32 …) and the number of elements of each tensor.

    Raises:
        CheckpointError: the file is not a complete safetensors file.
    """
    with _opened(file) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        return {
            name: (str(found.get_dtype()), math.prod(found.get_shape()))
            for name, found in slices.items()
        }


def stored_type(file: Path, names: tuple[str, ...]) -> str | None:
    """Return torch's type name of the first of these tensors in the file; None if there is none."""
    with _opened(file) as opened:
        held = set(opened.keys())
        for name in names:
            if name in held:
                return STORED_TYPES.get(opened.get_slice(name).get_dtype(), "")
    return None


@contextmanager
def _opened(file: Path, framework: str = "np") -> Iterator[Any]:  # safe_open is untyped
    """Open a file; headers are the same in each framework, and numpy imports no torch."""
    try:
        with safe_open(file, framework=framework) as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        if not file.is_file():
            raise CheckpointError(
                f"{file.name}: is missing", field=file.name, reason="MISSING"
            ) from error
        with file.open("rb") as raw:
            begins = raw.read(9)
        # The length of a safetensors header may begin with 0x80 too, but a brace follows at byte 8.
        if begins.startswith(PICKLE_BEGINS) and begins[8:] != b"{":
            raise CheckpointError(
                f"{file.name}: is a pickle under another name; loading a pickle executes code, so"
                " it is refused",
                field=file.name,
                reason="UNSUPPORTED",
            ) from error
        raise CheckpointError(
            f"{file.name}: is not a complete safetensors file ({error})",
            field=file.name,
            reason="DAMAGED",
        ) from error


def _missing(directory: Path) -> CheckpointError:
    held = (
        sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES)
        if directory.is_dir()
        else []
    )
    if not held:
        return CheckpointError(
            f"{directory}: has no {WEIGHTS}, and no {INDEX}", field=WEIGHTS, reason="MISSING"
        )
    return CheckpointError(
        f"{directory}: has no {WEIGHTS}, only {held[0]}. Loading a pickle executes code, so it is"
        " refused. Convert files of trusted origin with transformers:"
        " AutoModelForCausalLM.from_pretrained(DIRECTORY).save_pretrained(OTHER)",
        field=held[0],
        reason="UNSUPPORTED",
        limit=WEIGHTS,
    )
