"""Index of the ids in the write-ahead log: exact answers, bounded memory."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from services.feedback.spool import pending
from services.feedback.spool.accept import Acceptance, NoClaims
from services.feedback.spool.pending import BLOCK_EVENTS, PendingIds
from services.feedback.spool.spool import Spool
from tests.services.feedback.full_spool import MAX_BYTES, NothingCommitted, event_id, fill
from tests.services.feedback.samples import entry
from tests.services.feedback.unsealed import Unsealed

MIB = 1 << 20
# 12 bytes in the index; the rest is the last, partly filled block.
MAX_BYTES_AN_EVENT = 16
# The index of the former version, a dictionary, grew by 250 MiB.
MAX_GROWTH_BYTES = 64 * MIB


def index_of(events: int) -> PendingIds:
    index = PendingIds()
    for number in range(events):
        index.add(event_id(number), number)
    return index


def test_every_event_is_found_until_it_is_forgotten() -> None:
    events = 2 * BLOCK_EVENTS + 7
    index = index_of(events)
    assert all(number in index.candidates(event_id(number)) for number in range(0, events, 101))
    assert index.candidates(event_id(events)) == []
    before = BLOCK_EVENTS + 5
    index.forget(before)
    assert index.candidates(event_id(before - 1)) == []
    assert index.candidates(event_id(before)) == [before]
    index.forget(events)
    assert index.candidates(event_id(events - 1)) == []


def test_offsets_may_start_anywhere_and_skip() -> None:
    index = PendingIds()
    for offset in (5, 6, 9):
        index.add("a", offset)
    index.add("b", 10)
    assert index.candidates("a") == [5, 6, 9]
    assert index.candidates("b") == [10]


def test_two_ids_with_one_hash_are_different_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending, "hash", lambda event_id: 7, raising=False)
    spool = Spool(tmp_path / "spool", max_bytes=MIB, segment_bytes=MIB)
    acceptance = Acceptance("feedback", spool, NothingCommitted(), NoClaims(), Unsealed())
    calls = [[entry(name)] for name in "abc"]
    assert acceptance.store(calls).results == [1, 1, 1]
    assert acceptance.store([*calls, [entry("d")]]).results == [0, 0, 0, 1]
    assert spool.end_offset == 4
    spool.close()


def test_memory_of_the_index_is_a_few_bytes_an_event() -> None:
    events = BLOCK_EVENTS
    tracemalloc.start()
    try:
        index = index_of(events)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert index.candidates(event_id(0)) == [0]
    assert size <= MAX_BYTES_AN_EVENT * events


@pytest.mark.long
def test_a_full_log_of_thumbs_is_opened_in_little_memory(
    tmp_path: Path, record_property: Any
) -> None:
    events = fill(tmp_path / "spool")
    opened = subprocess.run(
        [sys.executable, "-m", "tests.services.feedback.full_spool", str(tmp_path / "spool")],
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(opened.stdout)
    assert figures["events"] == events > 600_000
    assert figures["bytes"] > 0.99 * MAX_BYTES
    assert figures["new_events"] == 0, "a repeated event is known after the restart"
    assert figures["grown_bytes"] <= MAX_GROWTH_BYTES
    for name, value in figures.items():
        record_property(name, value)
