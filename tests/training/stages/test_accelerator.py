"""Every stage on the fake accelerator has the bits of the CPU."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training import fake_accelerator
from tests.training.stages import on_device
from tests.training.stages.split_policies import write_data
from training.artifacts.manifest import verify_manifest

# A minute of CPU time, mostly in Python between the operations.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
DEVICES = ("cpu", fake_accelerator.NAME)
# of the steps that are told: the third, as the run died in the second; no checkpoint is written
# after it
UNKEPT = 1
REFUSED = """
import pytest, torch
from tests.training.fake_accelerator import MixedDevicesError, install
install()
there, here = torch.ones(2, device="fake"), torch.ones(2)
for mixed in (
    lambda: there + here,
    lambda: torch.nn.functional.linear(there, here),
    lambda: torch.zeros(()).add_(there.sum()),
    lambda: there.normal_(generator=torch.Generator()),
    lambda: torch.rand(2, device="fake", generator=torch.Generator()),
):
    with pytest.raises(MixedDevicesError):
        mixed()
assert (there * torch.tensor(2.0)).tolist() == [2.0, 2.0]
assert there[torch.tensor([True, False])].tolist() == [1.0]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every stage ran on both devices."""
    directory = tmp_path_factory.mktemp("devices")
    write_data(directory)
    for device in DEVICES:
        command = [sys.executable, "-m", on_device.__name__, device, str(directory)]
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr[-4000:]
    return directory


def told(directory: Path, device: str, file: str) -> Any:
    return json.loads((directory / device / file).read_text())


@pytest.mark.long
@pytest.mark.parametrize("name", on_device.NAMES)
def test_an_interrupted_stage_on_an_accelerator_has_the_bits_of_the_cpu(
    name: str, done: Path
) -> None:
    here, there = (told(done, device, "figures.json")[name] for device in DEVICES)
    assert len(here) > 10
    assert there == here
    here, there = (verify_manifest(done / device / name) for device in DEVICES)
    assert there.files == here.files
    assert there.report == here.report


@pytest.mark.long
def test_answers_scores_and_beams_equal_those_of_the_cpu(done: Path) -> None:
    here, there = (told(done, device, "figures.json")["asked"] for device in DEVICES)
    assert there == here


@pytest.mark.long
def test_a_step_synchronises_twice_with_any_number_of_microbatches(
    done: Path,
) -> None:
    """The two synchronisations are for the loss and for the gradient norm.

    SFT has four microbatches here; pre-training also waits for its number of tokens.
    """
    waits = told(done, fake_accelerator.NAME, "waits.json")
    assert waits["sft"][UNKEPT] == {"value": 2}
    assert waits["pretrain"][UNKEPT] == {"value": 3}
    assert waits["dpo"][UNKEPT] == {"value": 2}
    assert waits["kto"][UNKEPT] == {"value": 3}  # including the baseline


@pytest.mark.long
def test_an_update_synchronises_about_once_per_sampled_token(done: Path) -> None:
    """PPO waits for 6 tokens, 4 gradient norms, sums, and 8 times for the number of real tokens."""
    update = told(done, fake_accelerator.NAME, "waits.json")["ppo"][UNKEPT]
    assert update == {"value": 16, "number of entries": 8, "copy": 2}


@pytest.mark.long
def test_machine_settings_with_an_accelerator(done: Path) -> None:
    here = f"cpu, {fake_accelerator.NAME} (0 to 0)"
    assert told(done, fake_accelerator.NAME, "machine.json") == {
        "auto": f"{fake_accelerator.NAME}:0",
        "auto is bfloat16": True,
        "peak_memory_bytes": fake_accelerator.PEAK_BYTES,
        "cuda": f"device: 'cuda' is not available; available: {here}",
        f"{fake_accelerator.NAME}:3": f"device: '{fake_accelerator.NAME}:3' is not available; "
        f"available: {here}",
        "cpu": ["cpu", "cpu", 0],
    }


@pytest.mark.long
def test_fake_device_refuses_what_cuda_refuses(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
