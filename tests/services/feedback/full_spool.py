"""A write-ahead log full of sealed thumbs: `python -m tests.services.feedback.full_spool FOLDER`.

The program opens the log as the service does at its start and prints its figures as JSON. Run as a
child process, for measuring memory.
"""

import dataclasses
import json
import sys
import time
import uuid
from pathlib import Path

from services.chassis.errors import UnavailableError
from services.feedback.settings import FeedbackSettings
from services.feedback.spool.accept import Acceptance, NoClaims
from services.feedback.spool.log import Entry
from services.feedback.spool.spool import Spool
from tests.services.feedback.samples import entry
from tests.services.feedback.unsealed import Unsealed

MAX_BYTES: int = FeedbackSettings.model_fields["max_spool_bytes"].default
SEGMENT_BYTES: int = FeedbackSettings.model_fields["segment_bytes"].default
READ_BYTES = 4 * 1024 * 1024
GROUP = 5_000
# Growth of a thumb by sealing its empty texts: version, key id, nonce and tag.
SEALED_BYTES = 50


def event_id(number: int) -> str:
    """Return the id of an event of the log."""
    return str(uuid.UUID(int=number))


def fill(folder: Path, max_bytes: int = MAX_BYTES) -> int:
    """Fill a log with thumbs of different ids and return their number."""
    thumb = entry("a")
    sealed = dataclasses.replace(thumb, payload=thumb.payload + bytes(SEALED_BYTES), accept_order=1)
    spool = Spool(folder, max_bytes=max_bytes, segment_bytes=SEGMENT_BYTES)

    def numbered(number: int) -> Entry:
        return dataclasses.replace(sealed, event_id=event_id(number))

    group = GROUP
    while group:
        start = spool.end_offset
        try:
            spool.append([numbered(number) for number in range(start, start + group)])
        except UnavailableError:
            # Full for the group; smaller groups fill the rest.
            group //= 10
    end = spool.end_offset
    spool.close()
    return end


class NothingCommitted:
    """Ledger without committed events."""

    def fingerprints(self, stream: str, event_ids: object) -> dict[str, bytes]:
        return {}


def open_log(folder: Path) -> dict[str, float]:
    """Open and index the log, repeat an event, and return figures of memory and time."""
    before, started = _status("VmRSS"), time.monotonic()
    spool = Spool(folder, max_bytes=MAX_BYTES, segment_bytes=SEGMENT_BYTES)
    acceptance = Acceptance("feedback", spool, NothingCommitted(), NoClaims(), Unsealed())
    start = spool.start_offset
    while records := spool.read(start, GROUP, READ_BYTES):
        acceptance.remember(records)
        start = records[-1].offset + 1
    opened = time.monotonic()
    repeated = dataclasses.replace(entry("a"), event_id=event_id(spool.end_offset // 2))
    (result,) = acceptance.store([[repeated]]).results
    figures = {
        "events": spool.end_offset,
        "bytes": spool.bytes_used,
        "grown_bytes": _status("VmHWM") - before,
        "seconds": opened - started,
        "new_events": result if isinstance(result, int) else -1,
    }
    spool.close()
    return figures


def _status(name: str) -> int:
    """Return a figure of this process's memory in bytes."""
    return int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0]) * 1024


if __name__ == "__main__":
    print(json.dumps(open_log(Path(sys.argv[1]))))
