"""A Kafka broker whose clients all go through a proxy: the broker tells them the proxy's address,
and only its probes know its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.faults.proxy import StreamProxy
from infra.supervision.ports import HOST
from tests.servers import KafkaServer, running


def port_of(server: KafkaServer) -> int:
    """Where the broker itself listens."""
    return int(server.cluster.address(1).rpartition(":")[2])


@contextmanager
def behind(server: KafkaServer, proxy: StreamProxy, folder: Path) -> Iterator[str]:
    """Start both, the proxy first. Yields the bootstrap address."""
    with proxy:
        settings = folder / "broker-1.properties"
        own, told = (f"PLAINTEXT://{HOST}:{port}" for port in (port_of(server), proxy.port))
        text = settings.read_text()
        assert f"advertised.listeners={own}" in text
        settings.write_text(
            text.replace(f"advertised.listeners={own}", f"advertised.listeners={told}")
        )
        with running(server):
            yield f"{HOST}:{proxy.port}"
