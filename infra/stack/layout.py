"""Layout of the stack: ports of each replica and settings for the real servers.

The settings are those of an embedded run with other stores. The ports of the first replica have the
plain names, so that commands for an embedded run also find the stack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.embedded.environment import Environment
from infra.embedded.layout import Layout, program, service_settings
from infra.servers.fleet import Fleet
from infra.servers.seaweedfs import ACCESS_KEY
from infra.supervision.child import Program
from infra.supervision.ports import HOST, distinct_free_ports
from infra.supervision.secret_file import read_or_create

# A single model server, because the model fills the memory of this machine. Other services have two
# replicas.
REPLICATED = ("guardrail", "enhancer", "feedback", "session", "generator", "gateway")
DATABASES = ("session", "feedback", "generator", "gateway")
BUCKET = "thumbwheel"
PARTITIONS = 3
Settings = Mapping[str, object]


@dataclass(frozen=True)
class StackLayout:
    """Layout of an embedded run with second replicas, and the servers."""

    run: Layout
    fleet: Fleet

    def database(self, service: str, driver: str) -> str:
        """Return the URL of a service's database."""
        return self.fleet.postgres.url(service, driver)

    def programs(self, model: Path) -> list[Program]:
        """Return the services, model server first.

        The replicas of a service are adjacent, so that the first can be ready while the second
        starts.
        """
        settings = service_settings(self.run, model)
        replicas = [
            program(
                service, self.replica(service, number, settings[service]), f"{service}-{number}"
            )
            for service in REPLICATED
            for number in (1, 2)
        ]
        return [program("predictor", settings["predictor"], "predictor"), *replicas]

    def replica(self, service: str, number: int, embedded: Settings) -> dict[str, object]:
        """Return the settings of a single replica."""
        name = service if number == 1 else f"{service}_2"
        own: dict[str, object] = {
            "port": self.run.ports[name],
            "metrics_port": self.run.ports[f"{name}_metrics"],
            "drain_seconds": 5,
        }
        if service == "gateway":
            own["http_port"] = self.run.ports["http" if number == 1 else "http_2"]
        if service == "feedback":
            own["spool_directory"] = self.run.state / "feedback" / f"spool-{number}"
        return {**embedded, **self.shared(service), **own}

    def shared(self, service: str) -> Settings:
        """Return the settings for the servers that all replicas of a service share."""
        match service:
            case "feedback":
                return {
                    "database_url": self.database(service, "postgresql+pg8000"),
                    **self._kafka(),
                    **self._bucket(),
                }
            case "session" | "generator" | "gateway":
                database = {"database_url": self.database(service, "postgresql+asyncpg")}
                if service != "gateway":
                    return database
                secret = read_or_create(self.run.state / "valkey.secret")
                return {
                    **database,
                    "valkey_url": self.fleet.valkey.url(),
                    "valkey_secret": secret,
                }
            case _:
                return {}

    def environment(self) -> Environment:
        """Return the environment of commands next to the stack."""
        bucket = {
            f"TW_TRAINING_{name.upper()}": str(value) for name, value in self._bucket().items()
        }
        return Environment(self.database("gateway", "postgresql+asyncpg"), bucket)

    def _kafka(self) -> Settings:
        copies = len(self.fleet.kafka.nodes)
        return {
            "kafka_bootstrap": self.fleet.kafka.bootstrap,
            "partitions": PARTITIONS,
            "replication_factor": copies,
            "min_insync_replicas": min(2, copies),
        }

    def _bucket(self) -> Settings:
        store = self.fleet.store
        return {
            "s3_endpoint": store.endpoint,
            "s3_bucket": BUCKET,
            "s3_secure": "false",
            "s3_access_key": ACCESS_KEY,
            "s3_secret_key": store.secret_key,
        }


def stack_ports(http_port: int, grpc_port: int) -> dict[str, int]:
    """Return public ports in pairs from the given ports (0: any), and free ports for the rest."""
    doors = {"http": http_port, "http_2": http_port and http_port + 1}
    doors |= {"gateway": grpc_port, "gateway_2": grpc_port and grpc_port + 1}
    services = [*REPLICATED, *(f"{service}_2" for service in REPLICATED)]
    names = [*doors, *services, *(f"{service}_metrics" for service in services), "predictor"]
    free = dict(zip(names, distinct_free_ports(len(names)), strict=True))
    return free | {name: port for name, port in doors.items() if port}


def metrics_targets(ports: Mapping[str, int]) -> dict[str, list[str]]:
    """Return the scrape targets of Prometheus by service."""
    found = {
        service: [
            f"{HOST}:{ports[f'{service}_metrics']}",
            f"{HOST}:{ports[f'{service}_2_metrics']}",
        ]
        for service in REPLICATED
    }
    return {**found, "predictor": [f"{HOST}:{ports['predictor']}"]}
