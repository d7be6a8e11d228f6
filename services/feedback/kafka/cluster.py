"""Address and credentials of a Kafka cluster, without an import of the client library."""

from dataclasses import dataclass, field
from typing import Any

REQUEST_MS = 5_000
# The default of 30 s would delay the reconnection to a recovered broker.
MAX_RECONNECT_MS = 1_000
# The batch of turns of one call may reach 2 MiB. The limit applies to topics, producers and
# consumers alike.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


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
