"""Everything that a stage must find again after a kill: parameters, optimizers, and a few numbers.

Generators are not among them on purpose: every random number is drawn from a seed made of (run
seed, purpose, step). Each worker writes the parts that it holds, as safetensors; whoever reads them
takes what it needs, so the number of workers and the way in which they split the model may change
between two runs.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from training.manifest import ManifestError, verify_manifest, write_manifest
from training.optim.ranks import ALONE, Ranks

NUMBERS = "numbers.json"
PARAMETERS = "parameters/"
KEPT_CHECKPOINTS = 2
REGULAR, NOTICE = "step-", "notice-"
CHECKPOINT_NAME = re.compile(rf"({REGULAR}|{NOTICE})(\d{{6,}})")

NamedParameters = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class TrainingState:
    """Live objects by name; write and read copy their tensors. An optimizer has the name of the
    parameters that it steps.
    """

    parameters: Mapping[str, NamedParameters]
    optimizers: Mapping[str, torch.optim.Optimizer]
    ranks: Ranks = ALONE

    def write(self, directory: Path, numbers: Mapping[str, float]) -> None:
        """Add this worker's part to `directory`. Every worker calls this."""
        tensors = self._weights()
        for name, optimizer in self.optimizers.items():
            for parameter_name, parameter in self.parameters[name]:
                slots = optimizer.state.get(parameter, {})
                tensors |= {
                    _slot(name, parameter_name, slot): tensor for slot, tensor in slots.items()
                }
        with _alone_is_meant():
            writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
            save(tensors, storage_writer=writer, no_dist=self.ranks.world_size == 1)
        if self.ranks.rank == 0:
            (directory / NUMBERS).write_text(json.dumps(dict(numbers)))

    def read(self, directory: Path) -> dict[str, float]:
        """Put the stored tensors into the live objects, bit by bit; return the numbers. Every
        worker calls this.

        Raises:
            ManifestError: it is the state of other parameters.
        """
        reader = HuggingFaceStorageReader(str(directory))
        metadata = reader.read_metadata().state_dict_metadata
        stored = {
            name: found.size
            for name, found in metadata.items()
            if isinstance(found, TensorStorageMetadata)
        }
        tensors = self._weights()
        _require_same(directory, stored, self._shapes())
        for name, optimizer in self.optimizers.items():
            for parameter_name, parameter in self.parameters[name]:
                prefix = _slot(name, parameter_name, "")
                slots = {
                    key.removeprefix(prefix): size
                    for key, size in stored.items()
                    if key.startswith(prefix)
                }
                counts_at = parameter.device if _is_fused(optimizer) else torch.device("cpu")
                optimizer.state[parameter] = {
                    slot: _room(parameter, size, counts_at) for slot, size in slots.items()
                }
                tensors |= {
                    prefix + slot: room for slot, room in optimizer.state[parameter].items()
                }
        with _alone_is_meant():
            load(tensors, storage_reader=reader, no_dist=self.ranks.world_size == 1)
        numbers: dict[str, float] = json.loads((directory / NUMBERS).read_text())
        return numbers

    def _shapes(self) -> dict[str, torch.Size]:
        """Of the weights of this worker, and of the other parts of its model where it is cut."""
        mine = {name: weight.shape for name, weight in self._weights().items()}
        if self.ranks.pipeline is None:
            return mine
        parts: list[dict[str, torch.Size]] = [{}] * dist.get_world_size(self.ranks.pipeline)
        dist.all_gather_object(parts, mine, group=self.ranks.pipeline)
        return {name: shape for part in parts for name, shape in part.items()}

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{PARAMETERS}{name}/{parameter_name}": parameter.detach()
            for name, parameters in self.parameters.items()
            for parameter_name, parameter in parameters
        }


def _require_same(
    directory: Path, stored: Mapping[str, torch.Size], live: Mapping[str, torch.Size]
) -> None:
    """Weights alone: an optimizer that has taken no step holds nothing."""
    kept = {name: size for name, size in stored.items() if name.startswith(PARAMETERS)}
    odd = sorted(name for name in kept.keys() | live.keys() if kept.get(name) != live.get(name))
    if odd:
        raise ManifestError(
            f"{directory.name}: holds the state of another model, {len(odd)} differ, first {odd[0]}",
            field=directory.name,
            reason="MISMATCH",
        )


def _slot(name: str, parameter_name: str, slot: str) -> str:
    return f"optimizers/{name}/{parameter_name}/{slot}"


def _room(parameter: nn.Parameter, size: torch.Size, counts_at: torch.device) -> Tensor:
    """What a slot of this size is read into: split as its parameter is, or one number (AdamW's
    step).
    """
    return (
        torch.zeros_like(parameter)
        if size == parameter.shape
        else torch.zeros(size, device=counts_at)
    )


def _is_fused(optimizer: torch.optim.Optimizer) -> bool:
    """Whether AdamW counts its steps where the parameters are; else it counts on the processor,
    wherever they are.
    """
    return any(group.get("fused") for group in optimizer.param_groups)


@contextmanager
def _alone_is_meant() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class DirectoryCheckpoints:
    """Checkpoints of one run in a directory that all its workers see: the newest two, and one that
    was kept on notice until the next one comes.
    """

    def __init__(self, directory: Path, ranks: Ranks = ALONE) -> None:
        self._directory, self._ranks = directory, ranks

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """Write beside, then the manifest, then rename: what has its final name is whole."""
        partial = self._directory / f"partial-{step:06d}"
        first = self._ranks.rank == 0
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._ranks.wait()
        write(partial)
        self._ranks.wait()
        if first:
            self._finish(partial, checkpoint_name(step, on_notice))
        self._ranks.wait()

    def latest(self, before: int | None = None) -> Path | None:
        """See Checkpoints."""
        return latest_complete(self._directory, before)

    def _finish(self, partial: Path, name: str) -> None:
        target = self._directory / name
        write_manifest(partial, kind="training_state", version=name)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for old in outdated(name, [path.name for path in self._directory.iterdir()]):
            shutil.rmtree(self._directory / old)


def checkpoint_name(step: int, on_notice: bool = False) -> str:
    """Of a regular one, or of one that was kept because the run was told to end."""
    return f"{NOTICE if on_notice else REGULAR}{step:06d}"


def newest_first(names: Iterable[str], before: int | None = None) -> list[str]:
    """Checkpoints among these names, the newest first. With `before` the regular ones below that
    step: what was kept on notice was not looked at, and a run that nobody stopped has none to go
    back to.
    """
    found = [match for match in map(CHECKPOINT_NAME.fullmatch, names) if match]
    if before is not None:
        found = [match for match in found if match[1] == REGULAR and int(match[2]) < before]
    return [match[0] for match in sorted(found, key=lambda match: int(match[2]), reverse=True)]


def outdated(newest: str, names: Iterable[str]) -> set[str]:
    """Checkpoints among these names that nobody needs any more when `newest` is whole."""
    known = newest_first(names)
    return set(known) - {
        newest,
        *[name for name in known if name.startswith(REGULAR)][:KEPT_CHECKPOINTS],
    }


def latest_complete(directory: Path, before: int | None = None) -> Path | None:
    """The newest checkpoint whose files all agree with its manifest; with `before`, see newest_first."""
    for name in newest_first((path.name for path in directory.glob("*")), before):
        try:
            verify_manifest(directory / name)
        except ManifestError:
            continue
        return directory / name
    return None
