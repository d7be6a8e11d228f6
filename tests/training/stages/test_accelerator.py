"""Every stage on an accelerator (tests/training/fake_accelerator.py): what it learns there is what it
learns on the processor, bit by bit.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.training import fake_accelerator
from tests.training.stages import on_device
from tests.training.stages.split_policies import write_data
from training.manifest import verify_manifest

# A minute of a processor, of which most goes into Python between the operations.
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
    """A folder in which every stage ran on both."""
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
def test_a_stage_ends_with_the_bits_of_the_processor_although_it_was_cut_off(
    name: str, done: Path
) -> None:
    here, there = (told(done, device, "figures.json")[name] for device in DEVICES)
    assert len(here) > 10
    assert there == here
    here, there = (verify_manifest(done / device / name) for device in DEVICES)
    assert there.files == here.files
    assert there.report == here.report


@pytest.mark.long
def test_answers_scores_and_beams_are_those_of_the_processor(done: Path) -> None:
    here, there = (told(done, device, "figures.json")["asked"] for device in DEVICES)
    assert there == here


@pytest.mark.long
def test_a_step_waits_for_the_accelerator_twice_however_many_microbatches_it_has(
    done: Path,
) -> None:
    """For the loss and for the gradient's norm. SFT has four microbatches here; pre-training waits
    for its count of tokens too.
    """
    waits = told(done, fake_accelerator.NAME, "waits.json")
    assert waits["sft"][UNKEPT] == {"value": 2}
    assert waits["pretrain"][UNKEPT] == {"value": 3}
    assert waits["dpo"][UNKEPT] == {"value": 2}
    assert waits["kto"][UNKEPT] == {"value": 3}  # the baseline, too


@pytest.mark.long
def test_an_update_waits_for_each_sampled_token_and_little_more(done: Path) -> None:
    """PPO: 6 tokens, the norms of 4 steps, and sums; 8 times, to know how many tokens are real."""
    update = told(done, fake_accelerator.NAME, "waits.json")["ppo"][UNKEPT]
    assert update == {"value": 16, "number of entries": 8, "copy": 2}


@pytest.mark.long
def test_settings_of_a_machine_that_has_an_accelerator(done: Path) -> None:
    here = f"cpu, {fake_accelerator.NAME} (0 to 0)"
    assert told(done, fake_accelerator.NAME, "machine.json") == {
        "auto": f"{fake_accelerator.NAME}:0",
        "auto is bfloat16": True,
        "peak_memory_bytes": fake_accelerator.PEAK_BYTES,
        "cuda": f"device: 'cuda' is not available; available: {here}",
        f"{fake_accelerator.NAME}:3": f"device: '{fake_accelerator.NAME}:3' is not available; available: {here}",
        "cpu": ["cpu", "cpu", 0],
    }


@pytest.mark.long
def test_what_cuda_refuses_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
