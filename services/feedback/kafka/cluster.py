"""Kafka cluster: address, credentials, and construction of clients without leaks.

This module imports the client library only for a client, since the settings import this module and
the library takes one second.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

REQUEST_MS = 5_000
# The default of 30 s would delay the reconnection to a recovered broker.
MAX_RECONNECT_MS = 1_000
# The batch of turns of one call may reach 2 MiB. The limit applies to topics, producers and
# consumers alike.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024

ClientT = TypeVar("ClientT")


@dataclass(frozen=True)
class Cluster:
    """Address and access options of a cluster.

    `bootstrap` is a comma-separated list of host:port; `access` holds the client's options for TLS
    and SASL.
    """

    bootstrap: str
    access: dict[str, Any] = field(default_factory=dict, repr=False)

    def options(self) -> dict[str, Any]:
        """Return the options of all clients.

        Clients are built in threads and must fail fast while Kafka is unavailable.
        """
        return {
            "bootstrap_servers": self.bootstrap.split(","),
            "client_id": "thumbwheel-feedback",
            "bootstrap_timeout_ms": REQUEST_MS,
            "reconnect_backoff_max_ms": MAX_RECONNECT_MS,
            **self.access,
        }

    def build(self, kind: Callable[..., ClientT], **options: Any) -> ClientT:
        """Build a KafkaProducer, KafkaConsumer or KafkaAdminClient; blocking.

        A constructor that fails because Kafka is unavailable leaves its I/O thread and sockets
        behind. This method closes them; otherwise an outage of minutes would leak hundreds.

        Raises:
            KafkaError: Kafka is unavailable.
        """
        from kafka.net.compat import KafkaNetClient

        clients: list[KafkaNetClient] = []

        def make(**given: Any) -> KafkaNetClient:
            clients.append(KafkaNetClient(**given))
            return clients[-1]

        try:
            return kind(**self.options(), **options, kafka_client=make)
        except BaseException:
            # Only the network client knows the thread and the sockets of a failed constructor.
            for client in clients:
                client.close()
            raise
