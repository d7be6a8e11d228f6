"""F22: the store ignores If-None-Match and lets every PUT overwrite.

The service is unaffected: no PUT has a condition, and the ledger decides between two writers. With
commits inside the store, such a store loses events in two of five simulated runs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.feedback.lake.audit import audit
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.s3_store import S3Store
from services.feedback.sink import FlushLimits, Sink, SinkStep
from services.feedback.spool.spool import Spool, inspect
from services.feedback.store.database import FencedError, open_database
from tests.s3_server import S3Server, serving
from tests.services.feedback.history import History, violations
from tests.services.feedback.s3_stores import store_at
from tests.services.feedback.samples import FEEDBACK, entry

ROOM = 1 << 20
NAMES = "abcdef"


@pytest.fixture
def server() -> S3Server:
    server = S3Server()
    server.buckets["thumbs"] = {}
    return server


@pytest.fixture
def store(server: S3Server) -> Iterator[S3Store]:
    with serving(server) as port:
        yield store_at(port)


@pytest.mark.parametrize("other_rows", [2, 3], ids=["same batch", "other batch"])
@pytest.mark.parametrize("paused_at", [SinkStep.ENCODED, SinkStep.STORED])
def test_f22_a_paused_writer_cannot_change_committed_objects(
    server: S3Server,
    store: S3Store,
    tmp_path: Path,
    paused_at: SinkStep,
    other_rows: int,
    record_property: Any,
) -> None:
    engine = open_database(f"sqlite:///{tmp_path}/ledger.db")
    ledger, spool = Ledger(engine), Spool(tmp_path / "feedback", max_bytes=ROOM, segment_bytes=ROOM)
    spool.append([entry(name) for name in NAMES])
    pauses = 0

    def writer(rows: int, on_step=lambda step: None) -> Sink:
        sink = Sink(FEEDBACK, spool, store, ledger, FlushLimits(rows, ROOM), on_step=on_step)
        sink.assign()
        return sink

    def pause(step: SinkStep) -> None:
        """While this writer is paused, another one takes over and commits two batches."""
        nonlocal pauses
        if step is paused_at and not pauses:
            pauses += 1
            other = writer(other_rows)
            other.flush()
            other.flush()

    zombie = writer(2, on_step=pause)
    with pytest.raises(FencedError):
        zombie.flush()
    zombie.assign()
    while zombie.flush():
        pass

    ids = [entry(name).event_id for name in NAMES]
    assert (
        violations(
            History({"c": ids}, set(ids)),
            ledger,
            store,
            "feedback",
            {(spool.topic_id, 0): len(NAMES)},
        )
        == []
    )
    report = audit(ledger, store, lambda stream: inspect(tmp_path / stream))
    assert (report.problems, report.orphans) == ([], 0 if other_rows == 2 else 1)
    assert (pauses, server.conditions) == (1, 0)
    assert server.overwritten == (1 if other_rows == 2 else 0)
    record_property("fired", pauses)
    record_property("objects_overwritten", server.overwritten)
    spool.close()
    engine.dispose()


def test_f22_the_store_of_this_test_ignores_conditions(server: S3Server, store: S3Store) -> None:
    """Without this property the other tests would prove nothing."""
    for body in (b"1", b"2"):
        headers = {"If-None-Match": "*"}
        store._client._put_object("thumbs", "key", body, headers)
    assert (server.conditions, server.overwritten, store.get("key")) == (2, 1, b"2")
