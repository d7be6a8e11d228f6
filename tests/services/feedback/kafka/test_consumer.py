"""Consumer on a real broker: rebalances of its group end with an assignment."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import pytest
from kafka import KafkaAdminClient, KafkaConsumer

from services.feedback.kafka.cluster import Cluster
from services.feedback.kafka.consumer import TopicConsumer
from services.feedback.kafka.record import RecordSigner
from tests.servers import KafkaServer

TIMEOUT_SECONDS = 60.0

ClientT = TypeVar("ClientT")


class _FreshCluster(Cluster):
    """Cluster whose consumers notice new partitions at once, instead of within 30 s."""

    def build(self, kind: Callable[..., ClientT], **options: Any) -> ClientT:
        return super().build(kind, **options | {"metadata_max_age_ms": 200})


class _Owner:
    """Recorder of the assignments of one member."""

    def __init__(self) -> None:
        self.assigned: set[int] = set()
        self.losses = 0

    def on_assigned(self, partitions: Collection[int]) -> None:
        self.assigned = set(partitions)

    def on_lost(self, partitions: Collection[int]) -> None:
        self.assigned -= set(partitions)
        self.losses += 1


@pytest.mark.slow
@pytest.mark.parametrize("poll_ms", [1, 1_000])
def test_partitions_are_assigned_after_new_metadata_although_a_member_rejoins_late(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch, poll_ms: int
) -> None:
    """After a rebalance because of changed metadata, the leader was left without partitions.

    While the leader's JoinGroup waits for another member, polls of the leader time out, with
    1 ms even between JoinGroup and SyncGroup.
    """
    monkeypatch.setattr("services.feedback.kafka.consumer.REBALANCE_POLL_MS", poll_ms)
    topic, owner = kafka.topic(2), _Owner()
    group = f"g-{topic}"
    consumer = TopicConsumer(
        _FreshCluster(kafka.bootstrap),
        topic,
        "feedback",
        group,
        6.0,
        1_000_000,
        owner,  # type: ignore[arg-type]
        RecordSigner("feedback", bytes(32)),
    )
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        _wait_for(lambda: owner.assigned == {0, 1}, "the first assignment")
        with contextlib.closing(
            KafkaConsumer(
                bootstrap_servers=kafka.bootstrap, group_id=group, heartbeat_interval_ms=500
            )
        ) as late_member:
            late_member.subscribe([topic])
            _wait_for(lambda: late_member.poll(500) or len(owner.assigned) == 1, "one for each")
            losses = owner.losses
            with contextlib.closing(KafkaAdminClient(bootstrap_servers=kafka.bootstrap)) as admin:
                admin.create_partitions({topic: 4})
            _wait_for(lambda: owner.losses > losses, "the revocation")
            time.sleep(0.5)  # several polls of the leader, before the other member rejoins
            _wait_for(lambda: late_member.poll(500) or len(owner.assigned) == 2, "two for each")
    finally:
        consumer.stop()
        thread.join()


def _wait_for(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < end, f"waited {TIMEOUT_SECONDS} s for: {what}"
        time.sleep(0.02)
