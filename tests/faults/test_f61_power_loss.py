"""F61: the power fails before or after any sync of a process, at every place that writes.

Each place runs once with a recorder of its syncs. Every state that a power loss may leave is
restored and opened by the same program: what was acknowledged is there, the interrupted step can be
repeated, and further steps are acknowledged.
"""

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.durable_places import PLACES
from tests.faults.power_loss import Recorder, build_library, restore, states

STEPS = 3
LATER = 100


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def root() -> Iterator[Path]:
    """Folder in memory, where a real sync of the restarted program costs nothing."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "root"
        path.mkdir()
        yield path


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", PLACES)
def test_f61_acknowledged_steps_survive_power_loss_at_any_sync(
    name: str, root: Path, library: Path, record_property: Any
) -> None:
    recorder = Recorder(root, root.parent / "syncs")
    environment = {"LD_PRELOAD": str(library), "SYNC_SOCKET": str(root.parent / "syncs")}
    with (
        recorder.running(),
        subprocess.Popen(
            [sys.executable, "-m", "tests.faults.durable_places", name, str(root)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdin
        assert process.stdout
        for number in range(STEPS):
            process.stdin.write("\n")
            process.stdin.flush()
            word, _, receipt = process.stdout.readline().rstrip("\n").split(" ", 2)
            assert word == "acknowledged", receipt
            recorder.receipts[number] = receipt
            # Between two steps the process may sync more; the last acknowledgement counts there.
            recorder.cut()
        process.stdin.close()
        assert process.wait() == 0
    number_of_root = root.stat().st_ino
    seen, lost = set(), []
    for index, cut in enumerate(recorder.cuts):
        for left, state in states(cut, number_of_root):
            key = (len(cut.receipts), frozenset(state.items()))
            if key in seen:
                continue
            seen.add(key)
            restore(root, state)
            try:
                PLACES[name].check(root, cut.receipts)
                interrupted, later = len(cut.receipts), LATER
                with PLACES[name].open(root) as step:
                    receipts = {n: step(n) or "" for n in (interrupted, later)}
                PLACES[name].check(root, cut.receipts | receipts)
            except Exception as error:  # noqa: BLE001 - every state is tried
                calls = traceback.extract_tb(error.__traceback__)
                where = " < ".join(f"{Path(c.filename).name}:{c.lineno}" for c in calls[:-4:-1])
                lost.append(f"cut {index} ({len(cut.receipts)} steps), {left}: {error!r} {where}")
    assert not lost, "\n".join(lost)
    assert len(recorder.cuts) > 2 * STEPS
    record_property("fired", len(recorder.cuts))
    record_property("place", name)
    record_property("states_restored", len(seen))
    record_property("lost", len(lost))
