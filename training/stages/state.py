"""Everything that a stage must find again after a kill: parameters, optimizers, and a few numbers.

Generators are not among them on purpose: every random number is drawn from a seed made of (run seed, purpose, step).
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from training.manifest import ManifestError, verify_manifest, write_manifest

TENSORS = "state.safetensors"
NUMBERS = "numbers.json"
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class TrainingState:
    """Live objects by name; write and read copy their tensors."""

    parameters: Mapping[str, Sequence[nn.Parameter]]
    optimizers: Mapping[str, torch.optim.Optimizer]

    def write(self, directory: Path, numbers: Mapping[str, float]) -> None:
        """Fill `directory`; its manifest comes last."""
        tensors = {
            f"parameters/{name}/{index}": parameter.detach().contiguous()
            for name, group in self.parameters.items()
            for index, parameter in enumerate(group)
        }
        groups = {}
        for name, optimizer in self.optimizers.items():
            stored = optimizer.state_dict()
            groups[name] = stored["param_groups"]
            for index, slots in stored["state"].items():
                tensors |= {f"optimizers/{name}/{index}/{slot}": tensor for slot, tensor in slots.items()}
        save_file(tensors, directory / TENSORS)
        (directory / NUMBERS).write_text(json.dumps({"numbers": dict(numbers), "param_groups": groups}))
        write_manifest(directory, kind="training_state", version=directory.name)

    def read(self, directory: Path) -> dict[str, float]:
        """Put the stored tensors into the live objects, bit by bit; return the numbers.

        Raises:
            ManifestError: it is the state of other parameters.
        """
        tensors = load_file(directory / TENSORS)
        self._require_same(directory, tensors)
        stored = json.loads((directory / NUMBERS).read_text())
        with torch.no_grad():
            for name, group in self.parameters.items():
                for index, parameter in enumerate(group):
                    parameter.copy_(tensors[f"parameters/{name}/{index}"])
        for name, optimizer in self.optimizers.items():
            slots: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
            for key, tensor in tensors.items():
                kind, owner, *place = key.split("/")
                if (kind, owner) == ("optimizers", name):
                    slots[int(place[0])][place[1]] = tensor
            optimizer.load_state_dict({"state": dict(slots), "param_groups": stored["param_groups"][name]})
        numbers: dict[str, float] = stored["numbers"]
        return numbers

    def _require_same(self, directory: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        stored = {name: tensor.shape for name, tensor in tensors.items() if name.startswith("parameters/")}
        live = {
            f"parameters/{name}/{index}": parameter.shape
            for name, group in self.parameters.items()
            for index, parameter in enumerate(group)
        }
        if odd := sorted(name for name in stored.keys() | live.keys() if stored.get(name) != live.get(name)):
            raise ManifestError(
                f"{directory.name}: holds the state of another model, {len(odd)} differ, first {odd[0]}"
            )


class DirectoryCheckpoints:
    """Checkpoints of one run in a local directory, the newest two kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """Write beside, then rename: what has its final name is whole."""
        partial = self._directory / f"partial-{step:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        target = self._directory / checkpoint_name(step)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in step_directories(self._directory)[KEPT_CHECKPOINTS:]:
            shutil.rmtree(old)

    def latest(self, before: int | None = None) -> Path | None:
        """The newest whole checkpoint."""
        return latest_complete(self._directory, before)


def checkpoint_name(step: int) -> str:
    """Sorts by step."""
    return f"step-{step:06d}"


def step_directories(directory: Path) -> list[Path]:
    """Checkpoint directories, the newest first, whole or not."""
    return sorted(directory.glob("step-*"), reverse=True)


def latest_complete(directory: Path, before: int | None = None) -> Path | None:
    """The newest checkpoint (of a step below `before`) whose files all agree with its manifest."""
    for candidate in step_directories(directory):
        if before is not None and candidate.name >= checkpoint_name(before):
            continue
        try:
            verify_manifest(candidate)
        except ManifestError:
            continue
        return candidate
    return None
