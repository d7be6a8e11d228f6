"""Construction of kafka-python clients without leaks.

A constructor that fails because Kafka is unavailable leaves its I/O thread and sockets behind. This
module closes them; otherwise an outage of minutes would leak hundreds.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from kafka.net.compat import KafkaNetClient

ClientT = TypeVar("ClientT")


def build(kind: Callable[..., ClientT], **options: Any) -> ClientT:
    """Build a KafkaProducer, KafkaConsumer or KafkaAdminClient; blocking.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    clients: list[KafkaNetClient] = []

    def make(**given: Any) -> KafkaNetClient:
        clients.append(KafkaNetClient(**given))
        return clients[-1]

    try:
        return kind(**options, kafka_client=make)
    except BaseException:
        # Only the network client knows the thread and the sockets of a failed constructor.
        for client in clients:
            client.close()
        raise
