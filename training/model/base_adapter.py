"""Adapter of a version against the model from which a chain of adapters began.

Each stage merges its adapter into its model, so a run of SFT and PPO makes two updates of the model
before. Updates of one projection add up: B1 A1 + B2 A2 = [B1 B2] [A1; A2], with the ranks added. So
vLLM can serve all versions of a chain as adapters of one base. Above the permitted rank the update
is replaced by the nearest one of that rank (Eckart and Young, 1936).

The sum is exact. The merged weights are rounded to the type of the checkpoint after each stage, and
differ from the sum by that rounding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.artifacts.manifest import BASE_ADAPTER
from training.model.config import LoraConfig
from training.model.fields import ModelConfigError, read_object
from training.model.lora import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ADAPTERS,
    BASE_SHA256,
    PEFT_PREFIX,
    AdapterError,
    read_adapter_config,
    record_base,
    save_adapter_weights,
)
from training.model.tensor_files import CheckpointError, read_tensors

ERROR_NORM = "error_norm"  # in adapter_config.json; no field of PEFT, which ignores others
# In units of the norm of the update. An error of 2 % changes log-probs by about as much as bfloat16
# in vLLM, which differs by 0.02 nats per token from float32 (docs/decisions/vllm.md).
MAX_RELATIVE_ERROR = 0.02


@dataclass(frozen=True)
class LowRank:
    """Update B A of one projection, with A [r, in] and B [out, r].

    Kept in float32, since adapters of large models in float64 need gigabytes. Calculations are in
    float64.
    """

    a: Tensor
    b: Tensor

    @property
    def rank(self) -> int:
        """Number of rows of A."""
        return self.a.shape[0]

    def squared_norm(self) -> float:
        """Return the square of the Frobenius norm of B A, without the product."""
        a, b = self.a.double(), self.b.double()
        return float(((b.T @ b) * (a @ a.T)).sum())

    def plus(self, other: LowRank) -> LowRank:
        """Return the sum of two updates."""
        return LowRank(torch.cat((self.a, other.a)), torch.cat((self.b, other.b), dim=1))

    def reduced(self, rank: int) -> tuple[LowRank, float]:
        """Return the nearest update of at most this rank, and the square of the error's norm.

        With B = Qb Rb and A^T = Qa Ra, the singular values of B A are those of Rb Ra^T [r, r]. They
        are divided between both matrices, which keeps their entries in the range of 16-bit types.
        """
        if self.rank <= rank:
            return self, 0.0
        q_b, r_b = torch.linalg.qr(self.b.double())
        q_a, r_a = torch.linalg.qr(self.a.T.double())
        u, s, vh = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
        root = s[:rank].sqrt()
        a, b = root[:, None] * (vh[:rank] @ q_a.T), (q_b @ u[:, :rank]) * root
        return LowRank(a.float(), b.float()), float(s[rank:].square().sum())

    def scaled(self, factor: float) -> LowRank:
        """Return the update times a factor."""
        return LowRank(self.a, self.b * factor)

    def padded(self, rank: int) -> LowRank:
        """Return the same update with this rank; rows of zeros are added."""
        more = rank - self.rank
        return LowRank(
            torch.nn.functional.pad(self.a, (0, 0, 0, more)),
            torch.nn.functional.pad(self.b, (0, more)),
        )


def write_base_adapter(
    model_directory: Path, adapter_directory: Path, output_directory: Path, max_rank: int
) -> dict[str, Any]:
    """Write the sum of the model's base adapter and a new adapter to `output_directory`.

    If the model has no base adapter, the model itself is the base.

    Args:
        adapter_directory: adapter on the model.
        max_rank: highest rank of the sum.

    Returns:
        for the manifest: {"base", "rank", "relative_error"}; or {"refused": REASON} if there
        is no such adapter. The training is not lost: the version can be served by its weights.
    """
    try:
        return _write(model_directory, adapter_directory, output_directory, max_rank)
    except (AdapterError, CheckpointError, ModelConfigError) as error:
        return {"refused": str(error)}


def _write(
    model_directory: Path, adapter_directory: Path, output_directory: Path, max_rank: int
) -> dict[str, Any]:
    before = model_directory / BASE_ADAPTER
    updates, settings = read_updates(adapter_directory), {}
    base, error = model_directory.name, 0.0
    if (before / ADAPTER_CONFIG).is_file():
        settings = read_object(before / ADAPTER_CONFIG)
        base = str(settings.get("base_model_name_or_path"))
        error = float(settings.get(ERROR_NORM, 0.0))
        updates = add_updates(read_updates(before), updates)
    norm = sum(update.squared_norm() for update in updates.values()) ** 0.5
    reduced, lost = reduce_updates(updates, max_rank)
    # At most the sum, since the error of the model before is part of its adapter.
    error += lost
    if error > MAX_RELATIVE_ERROR * norm:
        ranks = max(update.rank for update in updates.values())
        raise AdapterError(
            f"the adapter against {base} has rank {ranks}, and {error / norm:.3f} of its update "
            f"are lost with rank {max_rank}; the limit is {MAX_RELATIVE_ERROR:g}",
            field="served_rank",
            reason="TOO_SMALL",
            limit=f"{MAX_RELATIVE_ERROR:g}",
        )
    rank = write_updates(reduced, output_directory, base)
    if not settings:
        record_base(output_directory, model_directory)
    written = {**read_object(output_directory / ADAPTER_CONFIG), ERROR_NORM: error}
    written |= {key: settings[key] for key in (BASE_SHA256,) if key in settings}
    text = json.dumps(written, indent=2, sort_keys=True)
    (output_directory / ADAPTER_CONFIG).write_text(text + "\n")
    return {"base": base, "rank": rank, "relative_error": error / norm if norm else 0.0}


def reduce_updates(updates: Mapping[str, LowRank], rank: int) -> tuple[dict[str, LowRank], float]:
    """Return the nearest updates of at most this rank, and the norm of the omitted part."""
    pairs = {name: update.reduced(rank) for name, update in updates.items()}
    lost = sum(squared for _, squared in pairs.values()) ** 0.5
    return {name: update for name, (update, _) in pairs.items()}, lost


def write_updates(updates: Mapping[str, LowRank], directory: Path, parent: str) -> int:
    """Write updates of projections as an adapter in PEFT's format; return its rank.

    Args:
        updates: updates by the names of their projections in the decoder.
        parent: name of the base model.
    """
    rank = max(update.rank for update in updates.values())
    weights: dict[str, Tensor] = {}
    for name, update in updates.items():
        padded = update.padded(rank)
        weights |= {
            f"{name}{ADAPTERS}base.lora_A": padded.a,
            f"{name}{ADAPTERS}base.lora_B": padded.b,
        }
    targets = tuple(sorted({name.rsplit(".", 1)[-1] for name in updates}))
    # alpha / r is 1, as scales are part of B.
    save_adapter_weights(weights, LoraConfig(rank, float(rank), targets), directory, parent)
    return rank


def read_updates(directory: Path) -> dict[str, LowRank]:
    """Read an adapter as the updates of its projections, by their names in the decoder.

    Raises:
        AdapterError: adapter_config.json is unusable, or a matrix is missing or has another rank.
        CheckpointError: the weights are unusable.
    """
    config = read_adapter_config(directory)
    tensors = read_tensors(directory / ADAPTER_WEIGHTS, torch.float32)
    names = sorted({name.rsplit(".lora_", 1)[0] for name in tensors})
    updates = {}
    for name in names:
        a, b = (tensors.get(f"{name}.lora_{part}.weight") for part in "AB")
        if a is None or b is None or (a.shape[0], b.shape[1]) != (config.rank, config.rank):
            raise AdapterError(
                f"{ADAPTER_WEIGHTS}: {name} is no pair of matrices of rank {config.rank}",
                field=name,
                reason="MISMATCH",
                limit=str(config.rank),
            )
        updates[name.removeprefix(PEFT_PREFIX)] = LowRank(a, b * (config.alpha / config.rank))
    return updates


def add_updates(first: Mapping[str, LowRank], second: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """Return the sums of the updates of each projection.

    Raises:
        AdapterError: a projection has other sizes.
    """
    added = {**first, **second}
    for name in first.keys() & second.keys():
        one, two = first[name], second[name]
        if (one.a.shape[1], one.b.shape[0]) != (two.a.shape[1], two.b.shape[0]):
            raise AdapterError(
                f"{name}: the adapters belong to models of other sizes",
                field=name,
                reason="MISMATCH",
            )
        added[name] = one.plus(two)
    return added
