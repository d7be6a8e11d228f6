"""All real servers of a state folder with their data folders and ports.

A folder keeps its first ports, because Kafka's controllers identify each other by port.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import Binaries
from infra.machine.servers.kafka import Kafka
from infra.machine.servers.postgres import Postgres
from infra.machine.servers.prometheus import Prometheus
from infra.machine.servers.seaweedfs import ACCESS_KEY, COMPONENTS, SeaweedFS
from infra.machine.servers.valkey import Valkey
from infra.run.supervision.child import Program
from infra.run.supervision.ports import distinct_free_ports, is_free, reserve
from infra.watching.rules import local_rules

# Default ports of clients. Other servers, and servers whose port is in use, get a free port.
USUAL_PORTS = {"kafka-1": 9092, "postgres": 5432, "valkey": 6379, "s3": 8333, "prometheus": 9090}


@dataclass(frozen=True)
class Fleet:
    """Kafka, Postgres, Valkey, SeaweedFS and Prometheus of a state folder."""

    kafka: Kafka
    postgres: Postgres
    valkey: Valkey
    store: SeaweedFS
    prometheus: Prometheus

    def prepare(self, binaries: Binaries) -> list[Program]:
        """Prepare the folders and return the programs in the order of their start."""
        return [
            *self.kafka.prepare(binaries.java),
            *self.postgres.prepare(binaries.postgres),
            *self.valkey.prepare(binaries.valkey),
            *self.store.prepare(binaries.weed),
            *self.prometheus.prepare(binaries.prometheus),
        ]

    @property
    def addresses(self) -> dict[str, str]:
        """Return the addresses for clients, including passwords, for the owner's terminal."""
        return {
            "kafka": self.kafka.bootstrap,
            "postgres": self.postgres.url(),
            "valkey": self.valkey.url(),
            "s3": f"http://{self.store.endpoint}  (access key {ACCESS_KEY}, "
            f"secret key {self.store.secret_key})",
            "prometheus": self.prometheus.url,
        }


def assemble(state: Path, ports: Mapping[str, int], targets: Mapping[str, Sequence[str]]) -> Fleet:
    """Create the servers of a state folder.

    Args:
        targets: scrape targets of Prometheus by job, in addition to Prometheus itself.
    """
    brokers = sum(name.endswith("-controller") for name in ports)
    return Fleet(
        Kafka(state / "kafka", tuple(ports[name] for name in _kafka_ports(brokers))),
        Postgres(state / "postgres", ports["postgres"]),
        Valkey(state / "valkey", ports["valkey"]),
        SeaweedFS(state / "s3", tuple(ports[name] for name in _STORE_PORTS)),
        Prometheus(state / "prometheus", ports["prometheus"], targets, local_rules(targets)),
    )


def choose_ports(state: Path, brokers: int, *, usual: bool = True) -> dict[str, int]:
    """Return the ports of the folder; choose them for a new folder.

    Args:
        usual: prefer the default ports.

    Raises:
        ServerError: a port is in use, or the folder has another number of brokers.
    """
    names = [*_kafka_ports(brokers), "postgres", "valkey", *_STORE_PORTS, "prometheus"]
    state.mkdir(parents=True, exist_ok=True)
    file = state / "ports.json"
    if not file.exists():
        chosen = dict(zip(names, distinct_free_ports(len(names)), strict=True))
        chosen |= {name: port for name, port in USUAL_PORTS.items() if usual and reserve(port)}
        file.write_text(json.dumps(chosen, indent=2))
    ports = {name: int(port) for name, port in json.loads(file.read_text()).items()}
    if set(ports) != set(names):
        begun = sum(name.endswith("-controller") for name in ports)
        raise ServerError(
            f"{state} was created with {begun} Kafka broker(s); use another folder for {brokers}",
            field="brokers",
            reason="MISMATCH",
            limit=str(begun),
        )
    if taken := {name: port for name, port in ports.items() if not is_free(port)}:
        listed = ", ".join(f"{port} ({name})" for name, port in taken.items())
        raise ServerError(
            f"ports of {state} are in use: {listed}; are its servers already running?",
            field=", ".join(taken),
            reason="IN_USE",
        )
    return ports


def _kafka_ports(brokers: int) -> list[str]:
    return [
        name
        for node in range(1, brokers + 1)
        for name in (f"kafka-{node}", f"kafka-{node}-controller")
    ]


_STORE_PORTS = [
    *(COMPONENTS[0], *(f"s3-{component}" for component in COMPONENTS[1:])),
    *(f"s3-{component}-grpc" for component in COMPONENTS),
]
