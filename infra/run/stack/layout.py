"""Layout of the stack: ports of each replica and settings for the real servers.

The settings are those of an embedded run with other stores. The ports of the first replica have the
plain names, so that commands for an embedded run also find the stack.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.machine.servers.fleet import Fleet
from infra.machine.servers.seaweedfs import ACCESS_KEY
from infra.run.embedded.environment import Environment, database_variable
from infra.run.embedded.layout import Layout, model_server, program, service_settings
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST, distinct_free_ports
from infra.run.supervision.secret_file import read_or_create
from infra.service_table import Service, service_table

BUCKET = "thumbwheel"
PARTITIONS = 3
Settings = Mapping[str, object]


@dataclass(frozen=True)
class StackLayout:
    """Layout of an embedded run with second replicas, and the servers."""

    run: Layout
    fleet: Fleet

    def programs(self, model: Path | None) -> list[Program]:
        """Return the services, callees before their callers.

        The replicas of a service are adjacent, so that the first can be ready while the second
        starts. There is a single model server, because the model fills the memory of this machine.
        """
        settings = service_settings(self.run, model)
        found: list[Program] = []
        for service in service_table().start_order:
            name = service.name
            if not service.grpc:
                found += model_server(self.run, settings[name], model)
                continue
            found += [
                program(name, self.replica(service, number, settings[name]), f"{name}-{number}")
                for number in (1, 2)
            ]
        return found

    def replica(self, service: Service, number: int, embedded: Settings) -> dict[str, object]:
        """Return the settings of a single replica."""
        name = service.name if number == 1 else f"{service.name}_2"
        own: dict[str, object] = {
            "port": self.run.ports[name],
            "metrics_port": self.run.ports[f"{name}_metrics"],
            "drain_seconds": 5,
        }
        if service.http:
            own["http_port"] = self.run.ports["http" if number == 1 else "http_2"]
        if service.spool:
            own["spool_directory"] = self.run.state / service.name / f"spool-{number}"
        return {**embedded, **self.shared(service), **own}

    def shared(self, service: Service) -> Settings:
        """Return the settings for the servers that all replicas of a service share."""
        settings: dict[str, object] = {}
        if service.database:
            url = self.fleet.postgres.url(service.name, service.database.driver)
            settings["database_url"] = url
        if service.kafka:
            copies = len(self.fleet.kafka.nodes)
            settings |= {
                "kafka_bootstrap": self.fleet.kafka.bootstrap,
                "partitions": PARTITIONS,
                "replication_factor": copies,
                "min_insync_replicas": min(2, copies),
            }
        if service.objects:
            settings |= self._bucket()
        if service.valkey:
            secret = read_or_create(self.run.state / "valkey.secret")
            settings |= {"valkey_url": self.fleet.valkey.url(), "valkey_secret": secret}
        return settings

    def environment(self) -> Environment:
        """Return the environment of commands next to the stack."""
        bucket = {
            f"TW_TRAINING_{name.upper()}": str(value) for name, value in self._bucket().items()
        }
        databases = {
            database_variable(service.name): self.fleet.postgres.url(
                service.name, service.database.driver
            )
            for service in service_table().grpc
            if service.database
        }
        return Environment(databases[database_variable("gateway")], bucket, databases)

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
    replicated = [service.name for service in service_table().grpc]
    services = [*replicated, *(f"{service}_2" for service in replicated)]
    services += [service for service in service_table().names if service not in services]
    names = [*doors, *services, *(f"{service}_metrics" for service in services)]
    free = dict(zip(names, distinct_free_ports(len(names)), strict=True))
    return free | {name: port for name, port in doors.items() if port}


def metrics_targets(ports: Mapping[str, int]) -> dict[str, list[str]]:
    """Return the scrape targets of Prometheus by service."""
    return {
        service: [
            f"{HOST}:{ports[name]}"
            for name in (f"{service}_metrics", f"{service}_2_metrics")
            if name in ports
        ]
        for service in service_table().names
    }
