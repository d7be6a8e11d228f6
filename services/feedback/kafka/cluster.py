"""Where Kafka is and how to get in. Knows nothing of the client library, which is imported only
where Kafka is used.
"""

from dataclasses import dataclass, field
from typing import Any

REQUEST_MS = 5_000
# The default is 30 s: a broker that is back would not be seen for as long.
MAX_RECONNECT_MS = 1_000
# A batch of turns of one call may be 2 MiB by itself. Topics take as much, producers send and
# consumers fetch as much.
MAX_MESSAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True)
class Cluster:
    """`bootstrap` is host:port, several by commas; `access` are the client's options for TLS and
    SASL.
    """

    bootstrap: str
    access: dict[str, Any] = field(default_factory=dict, repr=False)

    def options(self) -> dict[str, Any]:
        """What all clients share. They are built in threads and must give up soon while Kafka is
        away.
        """
        return {
            "bootstrap_servers": self.bootstrap.split(","),
            "client_id": "thumbwheel-feedback",
            "bootstrap_timeout_ms": REQUEST_MS,
            "reconnect_backoff_max_ms": MAX_RECONNECT_MS,
            **self.access,
        }
