"""F10: the spool is torn at any byte of its last record.

The replay ends before that record, and all earlier records are complete.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from services.feedback.spool.registry import EventsWaitingError
from services.feedback.spool.spool import Spool, recover
from tests.faults.feedback import Clients, Stack, local_replica, record, wait_until_sunk
from tests.services.feedback.samples import thumb

NOWHERE = "127.0.0.1:1"
EVENTS = 6
ROOM = 1 << 20


# Every byte of the last record of any spool: tests/services/feedback/spool/test_spool.py.
@pytest.mark.parametrize("step", [16, pytest.param(1, marks=pytest.mark.long)])
async def test_f10_a_spool_torn_at_any_byte_of_its_last_record_replays_all_others(
    feedback_stack: Stack, tmp_path: Path, step: int, record_property: Any
) -> None:
    events = [thumb(f"m-{number}", up=number % 2 == 0, message="m") for number in range(EVENTS)]
    with pytest.raises(EventsWaitingError):
        async with local_replica(feedback_stack, kafka_bootstrap=NOWHERE) as stub:
            for event in events:
                await record(stub, event)
    folder = tmp_path / "spool-0" / "feedback"
    file = recover(folder, repair=False)[-1]
    cuts = range(file.positions[-1], file.size, step)
    ids = [event.event_id for event in events]
    assert [replayed(folder, file.path.name, cut, tmp_path / "torn") for cut in cuts] == [
        ids[:-1]
    ] * len(cuts)
    assert replayed(folder, file.path.name, file.size, tmp_path / "torn") == ids

    with file.path.open("r+b") as torn:
        torn.truncate(cuts[len(cuts) // 2])
    async with local_replica(feedback_stack) as stub:
        clients = Clients([stub])
        clients.history.sent["m"], clients.history.acknowledged = ids, set(ids)
        # The caller of this event got no reply.
        await record(stub, events[-1])
        await wait_until_sunk(feedback_stack, clients.history)
    assert feedback_stack.problems(clients.history) == []
    record_property("fired", len(cuts))
    record_property("bytes_tried", len(cuts))


def replayed(folder: Path, name: str, size: int, to: Path) -> list[str]:
    """Cut the last file to a size and return the replayed event ids.

    The spool must also accept a further record.
    """
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    with (to / name).open("r+b") as file:
        file.truncate(size)
    spool = Spool(to, max_bytes=ROOM, segment_bytes=ROOM)
    found = spool.read(0, EVENTS + 1, ROOM)
    (next_one,) = spool.append([found[0].entry])
    assert next_one.offset == len(found)
    spool.close()
    return [record.entry.event_id for record in found]
