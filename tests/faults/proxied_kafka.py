"""A Kafka broker behind a proxy. The broker advertises the proxy's address to all clients."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.run.supervision.ports import HOST
from infra.simulate.faults.proxy import StreamProxy
from tests.servers import KafkaServer, running


def port_of(server: KafkaServer) -> int:
    """Return the broker's own port."""
    return int(server.cluster.address(1).rpartition(":")[2])


@contextmanager
def behind_proxy(server: KafkaServer, proxy: StreamProxy, folder: Path) -> Iterator[str]:
    """Start proxy and broker. Yields the bootstrap address."""
    with proxy:
        settings = folder / "broker-1.properties"
        own, advertised = (f"PLAINTEXT://{HOST}:{port}" for port in (port_of(server), proxy.port))
        text = settings.read_text()
        assert f"advertised.listeners={own}" in text
        settings.write_text(
            text.replace(f"advertised.listeners={own}", f"advertised.listeners={advertised}")
        )
        with running(server):
            yield f"{HOST}:{proxy.port}"
