"""Builds clients of kafka-python. A constructor that fails, because Kafka is away, leaves its I/O
thread and sockets behind: here they are closed, or an outage of minutes would cost hundreds of
each.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from kafka.net.compat import KafkaNetClient

ClientT = TypeVar("ClientT")


def build(kind: Callable[..., ClientT], **options: Any) -> ClientT:
    """A KafkaProducer, KafkaConsumer or KafkaAdminClient. Blocks. Raises: KafkaError."""
    made: list[KafkaNetClient] = []

    def make(**given: Any) -> KafkaNetClient:
        made.append(KafkaNetClient(**given))
        return made[-1]

    try:
        return kind(**options, kafka_client=make)
    except BaseException:
        for client in made:
            client.close()
        raise
