"""Relay: records stay in the spool until acknowledged and are resent otherwise."""

import gc
import socket
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from infra.run.supervision.ports import HOST
from services.feedback.kafka import cluster
from services.feedback.kafka.producer import KafkaPublisher
from services.feedback.kafka.record import RecordSigner
from services.feedback.kafka.relay import PublishError, Relay
from services.feedback.kafka.topic import TopicSettings
from services.feedback.spool.log import Record, frame_bytes
from services.feedback.spool.spool import Spool, SpoolDamagedError
from tests.services.feedback.samples import entry

ROOM = 1 << 20
SIGNER = RecordSigner("feedback", bytes(32))


class Broker:
    """Broker that rejects a number of batches."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals, self.batches, self.is_closed = refusals, [], False

    def publish(self, records: Sequence[Record]) -> None:
        self.batches.append([record.offset for record in records])
        if self.refusals:
            self.refusals -= 1
            raise PublishError("away")

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", max_bytes=ROOM, segment_bytes=ROOM)
    yield spool
    spool.close()


def relay_of(
    spool: Spool, broker: Broker, relayed: list[int], events: int = 100, size: int = ROOM
) -> Relay:
    return Relay("feedback", spool, broker, events, size, relayed.append)


def test_acknowledged_records_leave_the_spool(spool: Spool) -> None:
    broker, relayed = Broker(), []
    relay = relay_of(spool, broker, relayed)
    spool.append([entry("a"), entry("b")])
    assert relay.step()
    assert (broker.batches, relayed, spool.start_offset, relay.waiting) == ([[0, 1]], [2], 2, 0)
    assert not relay.step()


def test_unacknowledged_records_stay_and_are_resent(
    spool: Spool,
) -> None:
    broker, relayed = Broker(refusals=1), []
    relay = relay_of(spool, broker, relayed)
    spool.append([entry("a")])
    with pytest.raises(PublishError):
        relay.step()
    assert (relayed, spool.start_offset, relay.waiting) == ([], 0, 1)
    spool.append([entry("b")])
    relay.step()
    assert (broker.batches, relayed) == ([[0], [0, 1]], [2])


def test_a_batch_is_bounded_in_events_and_bytes(spool: Spool) -> None:
    by_events, by_bytes = Broker(), Broker()
    spool.append([entry(name) for name in "abcde"])
    relay_of(spool, by_events, [], events=2).step()
    relay_of(spool, by_bytes, [], size=3 * frame_bytes(entry("a"))).step()
    assert (by_events.batches, by_bytes.batches) == ([[0, 1]], [[0, 1, 2]])


def test_after_a_crash_all_records_of_the_spool_are_resent(spool: Spool) -> None:
    spool.append([entry("a"), entry("b")])
    relay_of(spool, Broker(), [], events=1).step()
    broker = Broker()
    relay_of(spool, broker, []).step()
    assert broker.batches == [[0, 1]]


def test_a_relay_retries_until_the_broker_returns(spool: Spool) -> None:
    broker, relayed, done = Broker(refusals=2), [], threading.Event()

    def on_relayed(end: int) -> None:
        relayed.append(end)
        done.set()

    relay = Relay("feedback", spool, broker, 100, ROOM, on_relayed)
    spool.append([entry("a")])
    thread = threading.Thread(target=relay.run)
    thread.start()
    assert done.wait(20)
    relay.stop()
    thread.join(20)
    assert (len(broker.batches), relayed) == (3, [1])


def test_finishing_relays_waiting_records_and_closes_the_broker(spool: Spool) -> None:
    broker = Broker()
    relay = relay_of(spool, broker, [], events=1)
    spool.append([entry("a"), entry("b")])
    relay.finish(seconds=20)
    assert (relay.waiting, broker.is_closed) == (0, True)


def test_finishing_skips_a_broker_that_just_failed(spool: Spool) -> None:
    broker = Broker(refusals=9)
    relay = relay_of(spool, broker, [])
    spool.append([entry("a")])
    thread = threading.Thread(target=relay.run)
    thread.start()
    while not broker.batches:
        thread.join(0.01)
    relay.stop()
    thread.join(20)
    tried = len(broker.batches)
    relay.finish(seconds=20)
    assert (len(broker.batches), relay.waiting, broker.is_closed) == (tried, 1, True)


def test_an_unreadable_spool_ends_the_relay(spool: Spool, tmp_path: Path) -> None:
    relay = relay_of(spool, Broker(), [])
    spool.append([entry("a")])
    (path,) = (tmp_path / "spool").glob("*.log")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(SpoolDamagedError):
        relay.run()


def test_failed_batches_are_not_kept_until_a_full_garbage_collection(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's exceptions are part of reference cycles; each held its batch."""
    monkeypatch.setattr(cluster, "REQUEST_MS", 50)
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        address = f"{HOST}:{unused.getsockname()[1]}"  # bound and not listening
        publisher = KafkaPublisher(
            cluster.Cluster(address), "t", 1.0, TopicSettings(1, 1, 1, 7.0), SIGNER
        )
        # As after an earlier success: the next attempt builds a producer.
        monkeypatch.setattr(publisher, "_is_verified", True)
        batches: list[weakref.ref[Record]] = []

        class Watched:
            """Publisher that notes the first record of each batch and ends the relay."""

            def publish(self, records: Sequence[Record]) -> None:
                batches.append(weakref.ref(records[0]))
                if len(batches) == 2:
                    relay.stop()
                publisher.publish(records)

            def close(self) -> None:
                publisher.close()

        relay = Relay("feedback", spool, Watched(), 100, ROOM)
        spool.append([entry("a")])
        gc.disable()
        try:
            relay.run()
            assert [batch() for batch in batches] == [None, None]
        finally:
            gc.enable()
