"""Training state in checkpoints: parameters, optimizer states and a few numbers.

Random generators are not stored on purpose: every random number is drawn from a seed made of (run
seed, purpose, step). Each worker writes its own parts as safetensors and reads the parts that it
needs. Therefore the number of workers and the split of the model may change between two runs.

torch and its distributed checkpoints are imported in the functions that write and read a state:
commands look for checkpoints before they import torch.
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
from typing import TYPE_CHECKING

from durable_files.files import make_directory, publish
from training.artifacts.manifest import ManifestError, verify_manifest, write_manifest
from training.runtime.ranks import ALONE, Ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    NamedParameters = Sequence[tuple[str, nn.Parameter]]

NUMBERS = "numbers.json"
PARAMETERS = "parameters/"
RETAINED_CHECKPOINTS = 2
REGULAR, NOTICE = "step-", "notice-"
CHECKPOINT_NAME = re.compile(rf"({REGULAR}|{NOTICE})(\d{{6,}})")


@dataclass(frozen=True)
class TrainingState:
    """Live parameters and optimizers by name. `write` and `read` copy their tensors.

    An optimizer has the name of the parameters that it updates.
    """

    parameters: Mapping[str, NamedParameters]
    optimizers: Mapping[str, torch.optim.Optimizer]
    ranks: Ranks = ALONE

    def write(self, directory: Path, numbers: Mapping[str, float]) -> None:
        """Add the part of this worker to `directory`. Every worker calls this method."""
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
        from torch.distributed.checkpoint.state_dict_saver import save

        tensors = self._weights()
        for name, optimizer in self.optimizers.items():
            for parameter_name, parameter in self.parameters[name]:
                slots = optimizer.state.get(parameter, {})
                tensors |= {
                    _slot(name, parameter_name, slot): tensor for slot, tensor in slots.items()
                }
        with _single_process_without_warning():
            writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
            save(tensors, storage_writer=writer, no_dist=self.ranks.world_size == 1)
        if self.ranks.rank == 0:
            (directory / NUMBERS).write_text(json.dumps(dict(numbers)))

    def read(self, directory: Path) -> dict[str, float]:
        """Copy the stored tensors into the live objects, bit by bit; return the numbers.

        Every worker calls this method.

        Raises:
            ManifestError: the state belongs to other parameters.
        """
        import torch
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
        from torch.distributed.checkpoint.metadata import TensorStorageMetadata
        from torch.distributed.checkpoint.state_dict_loader import load

        reader = HuggingFaceStorageReader(str(directory))
        metadata = reader.read_metadata().state_dict_metadata
        stored = {
            name: found.size
            for name, found in metadata.items()
            if isinstance(found, TensorStorageMetadata)
        }
        tensors = self._weights()
        _require_matching_shapes(directory, stored, self._shapes())
        for name, optimizer in self.optimizers.items():
            for parameter_name, parameter in self.parameters[name]:
                prefix = _slot(name, parameter_name, "")
                slots = {
                    key.removeprefix(prefix): size
                    for key, size in stored.items()
                    if key.startswith(prefix)
                }
                # Slots are split like their parameter, except for scalars (AdamW's step). A fused
                # AdamW counts steps on the device of the parameters, otherwise on the CPU.
                fused = any(group.get("fused") for group in optimizer.param_groups)
                step_device = parameter.device if fused else torch.device("cpu")
                optimizer.state[parameter] = {
                    slot: torch.zeros_like(parameter)
                    if size == parameter.shape
                    else torch.zeros(size, device=step_device)
                    for slot, size in slots.items()
                }
                tensors |= {
                    prefix + slot: tensor for slot, tensor in optimizer.state[parameter].items()
                }
        with _single_process_without_warning():
            load(tensors, storage_reader=reader, no_dist=self.ranks.world_size == 1)
        numbers: dict[str, float] = json.loads((directory / NUMBERS).read_text())
        return numbers

    def _shapes(self) -> dict[str, torch.Size]:
        """Return the shapes of all weights, including those of the other pipeline parts."""
        mine = {name: weight.shape for name, weight in self._weights().items()}
        if self.ranks.pipeline is None:
            return mine
        import torch.distributed as dist

        parts: list[dict[str, torch.Size]] = [{}] * dist.get_world_size(self.ranks.pipeline)
        dist.all_gather_object(parts, mine, group=self.ranks.pipeline)
        return {name: shape for part in parts for name, shape in part.items()}

    def _weights(self) -> dict[str, Tensor]:
        return {
            f"{PARAMETERS}{name}/{parameter_name}": parameter.detach()
            for name, parameters in self.parameters.items()
            for parameter_name, parameter in parameters
        }


def _require_matching_shapes(
    directory: Path, stored: Mapping[str, torch.Size], live: Mapping[str, torch.Size]
) -> None:
    """Compare weights only: an optimizer has no state before its first step."""
    weights = {name: size for name, size in stored.items() if name.startswith(PARAMETERS)}
    odd = sorted(
        name for name in weights.keys() | live.keys() if weights.get(name) != live.get(name)
    )
    if odd:
        raise ManifestError(
            f"{directory.name}: state of another model, {len(odd)} weights differ, first {odd[0]}",
            field=directory.name,
            reason="MISMATCH",
        )


def _slot(name: str, parameter_name: str, slot: str) -> str:
    return f"optimizers/{name}/{parameter_name}/{slot}"


@contextmanager
def _single_process_without_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class DirectoryCheckpoints:
    """Checkpoints of one run in a directory that all workers see.

    The newest two are retained, and one that was saved on notice until the next one is complete.
    """

    def __init__(self, directory: Path, ranks: Ranks = ALONE) -> None:
        self._directory, self._ranks = directory, ranks

    def save(self, step: int, write: Callable[[Path], None], on_notice: bool = False) -> None:
        """Implement `Checkpoints.save`.

        Files are written to a partial folder, then the manifest, then the folder is renamed. So a
        folder with a final name is always complete.
        """
        partial = self._directory / f"partial-{step:06d}"
        first = self._ranks.rank == 0
        if first:
            shutil.rmtree(partial, ignore_errors=True)
            make_directory(self._directory)
            partial.mkdir()
        self._ranks.wait()  # until the folder exists
        write(partial)
        self._ranks.wait()  # until all parts are written, because the manifest hashes them
        if first:
            name = checkpoint_name(step, on_notice)
            write_manifest(partial, kind="training_state", version=name)
            publish(partial, self._directory / name)
            for old in outdated(name, [path.name for path in self._directory.iterdir()]):
                shutil.rmtree(self._directory / old)
        self._ranks.wait()  # a worker that returns may rely on the checkpoint

    def latest(self, before: int | None = None) -> Path | None:
        """Return the newest complete checkpoint, if given one before the step `before`."""
        return latest_complete(self._directory, before)


def checkpoint_name(step: int, on_notice: bool = False) -> str:
    """Return the folder name of a scheduled checkpoint, or of one saved on notice."""
    return f"{NOTICE if on_notice else REGULAR}{step:06d}"


def newest_first(names: Iterable[str], before: int | None = None) -> list[str]:
    """Return the names of checkpoints among these names, newest first.

    With `before`, only scheduled checkpoints below that step count: no alarm has examined a
    checkpoint saved on notice, and an uninterrupted run would not have it.
    """
    found = [match for match in map(CHECKPOINT_NAME.fullmatch, names) if match]
    if before is not None:
        found = [match for match in found if match[1] == REGULAR and int(match[2]) < before]
    return [match[0] for match in sorted(found, key=lambda match: int(match[2]), reverse=True)]


def outdated(newest: str, names: Iterable[str]) -> set[str]:
    """Return the checkpoints among these names that can be removed once `newest` is complete."""
    known = newest_first(names)
    return set(known) - {
        newest,
        *[name for name in known if name.startswith(REGULAR)][:RETAINED_CHECKPOINTS],
    }


def latest_complete(directory: Path, before: int | None = None) -> Path | None:
    """Return the newest checkpoint whose files match its manifest; `before`: see newest_first."""
    for name in newest_first((path.name for path in directory.glob("*")), before):
        try:
            verify_manifest(directory / name)
        except ManifestError:
            continue
        return directory / name
    return None
