"""safetensors files, read as what they are: foreign. Whatever is wrong with one is a
CheckpointError that names it.

The library checks header sizes and offsets and never runs what it reads; pickles are run by being
read, so they are not, ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.errors import DetailedError, details_of
from training.model.fields import ModelConfigError, read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
STORED_TYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
PICKLE_BEGINS = (b"\x80", b"PK\x03\x04")  # a pickle's protocol mark; the zip that torch writes


class CheckpointError(DetailedError, ValueError):
    """A model directory's weights cannot be read, or do not fit its config.json; the text names
    file and tensor.
    """

    reason = "INVALID_CHECKPOINT"


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a model: those that the index names, or the single one.

    Raises:
        CheckpointError: there is none, the index is broken, or it names a file that is missing or
            elsewhere.
    """
    if not (directory / INDEX).exists():
        if not (directory / WEIGHTS).exists():
            raise _missing(directory)
        return [directory / WEIGHTS]
    try:
        placed = read_object(directory / INDEX).get("weight_map")
    except ModelConfigError as error:
        raise CheckpointError(str(error), **details_of(error)) from error
    if (
        not isinstance(placed, dict)
        or not placed
        or not all(isinstance(name, str) for name in placed.values())
    ):
        raise CheckpointError(
            f"{INDEX}: weight_map does not name the file of each tensor",
            field="weight_map",
            reason="WRONG_TYPE" if placed else "EMPTY",
        )
    shards = sorted(set(placed.values()))
    for shard in shards:
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{INDEX}: {shard!r} is not the name of a safetensors file beside it",
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
    """All tensors of a file, cast to `dtype`, on the processor.

    Args:
        skip: True for the names that are not wanted, whatever their type.

    Raises:
        CheckpointError: the file is broken or no safetensors file; a tensor is no floating-point
            one, or holds NaN or infinity.
    """
    tensors: dict[str, Tensor] = {}
    with _opened(file) as opened:
        for name in opened.keys():  # noqa: SIM118 - safe_open is not a mapping
            if skip(name):
                continue
            stored = opened.get_slice(name).get_dtype()
            if stored not in STORED_TYPES:
                raise CheckpointError(
                    f"{file.name}: {name} has type {stored}; read are {', '.join(STORED_TYPES)}",
                    field=name,
                    reason="UNSUPPORTED",
                    limit=", ".join(STORED_TYPES),
                )
            tensors[name] = opened.get_tensor(name).to(dtype)
            # One pass without a copy; weights near the largest float are as useless as infinite
            # ones.
            if not torch.isfinite(tensors[name].sum(dtype=torch.float32)):
                raise CheckpointError(
                    f"{file.name}: {name} is not finite: it holds NaN, infinity, or nearly so",
                    field=name,
                    reason="NOT_FINITE",
                )
    return tensors


def stored_type(file: Path, names: tuple[str, ...]) -> str | None:
    """torch's name of the type that the first of these tensors to be found has; None where the file
    has none of them.
    """
    with _opened(file) as opened:
        held = set(opened.keys())
        for name in names:
            if name in held:
                return STORED_TYPES.get(opened.get_slice(name).get_dtype(), "")
    return None


@contextmanager
def _opened(file: Path) -> Iterator[Any]:  # safe_open has no types
    try:
        # The library takes the default device for its own buffers.
        with torch.device("cpu"), safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        why, reason = _why(file, error)
        raise CheckpointError(f"{file.name}: {why}", field=file.name, reason=reason) from error


def _why(file: Path, error: Exception) -> tuple[str, str]:
    """The words and the reason of the error."""
    if not file.is_file():
        return "is missing", "MISSING"
    with file.open("rb") as opened:
        begins = opened.read(9)
    # A header's length may begin with 0x80 too, but then its brace follows.
    if begins.startswith(PICKLE_BEGINS) and begins[8:] != b"{":
        return (
            "is a pickle under another name: reading one runs what is in it, so it is never read here",
            "UNSUPPORTED",
        )
    return f"is no whole safetensors file ({error})", "DAMAGED"


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
        f"{directory}: has no {WEIGHTS}, only {held[0]}. Reading a pickle runs what is in it, so it is never read here. Where you "
        "trust its origin, convert it: transformers' AutoModelForCausalLM.from_pretrained(DIRECTORY).save_pretrained(OTHER)",
        field=held[0],
        reason="UNSUPPORTED",
        limit=WEIGHTS,
    )
