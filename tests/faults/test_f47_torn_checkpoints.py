"""F47: a damaged checkpoint is never loaded, and the previous one is used.

Damage: truncation, changed bytes, a pickle, or a killed writer.
"""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from services.predictor.errors import ModelRefusedError
from services.predictor.graph.conversion import convert
from tests.support.errors import refused
from tests.training.toys import toy_model
from training.artifacts.manifest import ManifestError, verify_manifest, write_manifest
from training.model.checkpoint import load_decoder
from training.model.tensor_files import CheckpointError
from training.runtime.training_state import DirectoryCheckpoints

TORN_AT = 40
TENSORS = "tensors.safetensors"


class Trap:
    """Object that raises when unpickled."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self._file,))


def write(step: int, into: Path) -> None:
    save_file({"t": torch.full((64,), float(step))}, into / TENSORS)


def test_f47_torn_checkpoint_is_ignored_for_the_previous_one(
    tmp_path: Path, record_property: Any
) -> None:
    checkpoints = DirectoryCheckpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, lambda into, step=step: write(step, into))
    newest = tmp_path / "step-000002"
    whole = {file.name: file.read_bytes() for file in newest.iterdir()}
    chance, tried = random.Random(47), 0
    for name, data in whole.items():
        bad = [data[: chance.randrange(len(data))] for _ in range(TORN_AT)]
        bad += [chance.randbytes(len(data)), b"", pickle.dumps(Trap(tmp_path / "sprung"))]
        for place in chance.sample(range(len(data)), TORN_AT):
            bad.append(
                data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]
            )
        for instead in bad:
            (newest / name).write_bytes(instead)
            found = checkpoints.latest()
            # Descriptive text in the manifest may change without effect on the files.
            assert found == tmp_path / "step-000001" or (
                name == "manifest.json" and intact(newest, whole)
            )
            tried += 1
        (newest / name).write_bytes(data)
    assert checkpoints.latest() == newest
    assert not (tmp_path / "sprung").exists()
    record_property("fired", tried)


def intact(checkpoint: Path, whole: dict[str, bytes]) -> bool:
    verify_manifest(checkpoint)
    return (checkpoint / TENSORS).read_bytes() == whole[TENSORS]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
def test_f47_pickle_is_rejected_by_training_and_predictor(tmp_path: Path, name: str) -> None:
    model, sprung = toy_model(tmp_path / "model"), tmp_path / "sprung"
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(ManifestError):
        verify_manifest(model)
    # Even with a valid manifest.
    write_manifest(model, kind="model", version="pickled")
    with refused(CheckpointError, field=name, reason="UNSUPPORTED"):
        load_decoder(model)
    with pytest.raises(ModelRefusedError):
        convert(model, tmp_path / "graph")
    assert not sprung.exists()


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_f47_killed_writer_leaves_a_complete_checkpoint(
    tmp_path: Path, record_property: Any
) -> None:
    chance, kills, partial = random.Random(47), 25, 0
    for _ in range(kills):
        before = DirectoryCheckpoints(tmp_path).latest()
        writer = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.training_run", "save", str(tmp_path)]
        )
        while DirectoryCheckpoints(tmp_path).latest() == before:
            assert writer.poll() is None
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        partial += bool(list(tmp_path.glob("partial-*")))
        latest = DirectoryCheckpoints(tmp_path).latest()
        assert latest is not None
        step = float(latest.name.removeprefix("step-"))
        assert all(
            torch.equal(tensor, torch.full_like(tensor, step))
            for tensor in load_file(latest / TENSORS).values()
        )
    assert partial > 0, "no kill fell into the middle of a write"
    record_property("fired", kills)
    record_property("kills_in_mid_write", partial)
