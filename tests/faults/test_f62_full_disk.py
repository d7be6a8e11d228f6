"""F62: the disk is full while a process writes, at every place that writes.

The step is refused, the process goes on when there is space again, and what was acknowledged before
and after is there after a restart.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults.durable_places import PLACES
from tests.faults.small_disk import small_disk

ROOT = Path(__file__).resolve().parents[2]
MOST_WHILE_FULL = 40


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PLACES)
def test_f62_acknowledged_steps_survive_a_full_disk(
    name: str, tmp_path: Path, record_property: Any
) -> None:
    receipts: dict[int, str] = {}
    refused = 0
    with small_disk(tmp_path, 32) as disk:
        (disk.folder / "root").mkdir()
        module = (sys.executable, "-m", "tests.faults.durable_places")
        command = (*disk.enter, *module, name, str(tmp_path / "root"))
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process:

            def step() -> str:
                assert process.stdin
                assert process.stdout
                process.stdin.write("\n")
                process.stdin.flush()
                word, number, receipt = process.stdout.readline().rstrip("\n").split(" ", 2)
                if word == "acknowledged":
                    receipts[int(number)] = receipt
                return word

            assert step() == "acknowledged"
            disk.fill()
            # A small step may fit into the last block of a file.
            for _ in range(MOST_WHILE_FULL):
                refused += step() == "refused"
                if refused == 2:
                    break
            disk.free_space()
            after = [step() for _ in range(2)]
            assert process.stdin
            process.stdin.close()
            assert process.wait() == 0
        given = json.dumps(receipts)
        subprocess.run([*command, "--check"], input=given, text=True, env=environment, check=True)
    assert refused == 2
    assert after == ["acknowledged"] * 2
    record_property("fired", refused)
    record_property("place", name)
    record_property("acknowledged", len(receipts))
