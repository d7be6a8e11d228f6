"""Service table: the facts of each service that several parts of the repository need.

The rows are in services/services.toml. `service_table` reads and checks them once.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from training.errors import ConfigError

FILE = Path(__file__).resolve().parents[1] / "services" / "services.toml"
# Offset of the /metrics port of a service from its port. The chart adds the same number.
METRICS_OFFSET = 1000
HTTP_PORT = 8080
KEYS = ("principal-key", "master-key", "model-server-key")
PREPARE = ("migrate", "topics", "bucket")
LISTS = ("calls", "keys", "prepare")
DRIVERS = ("postgresql+asyncpg", "postgresql+pg8000")
# A name is a module, a part of environment variables, a label and a DNS name.
NAME = re.compile(r"[a-z][a-z0-9]{0,30}")
FILE_URL = re.compile(r"sqlite(\+\w+)?:///\w[\w./-]*")


@dataclass(frozen=True)
class Database:
    """Database of a service.

    Args:
        driver: scheme of the URL of a Postgres server.
        file: SQLite URL of an embedded run, with a path relative to the state folder. "" if the
            service runs without a database there.
    """

    driver: str
    file: str = ""

    @property
    def file_path(self) -> Path:
        """Return the path of the SQLite file, relative to the state folder."""
        return Path(self.file.split(":///")[1])

    def file_url(self, state: Path) -> str:
        """Return the SQLite URL of an embedded run with this state folder."""
        return f"{self.file.split(':///')[0]}:///{state / self.file_path}"


@dataclass(frozen=True)
class Service:
    """A row of the table. services/services.toml describes the fields."""

    name: str
    port: int
    grpc: bool = True
    http: bool = False
    calls: Sequence[str] = ()
    keys: Sequence[str] = ()
    database: Database | None = None
    valkey: bool = False
    models: bool = False
    spool: bool = False
    kafka: bool = False
    objects: bool = False
    prepare: Sequence[str] = ()

    @property
    def metrics_port(self) -> int:
        """Return the usual port of /metrics."""
        return self.port + METRICS_OFFSET

    @property
    def ports(self) -> frozenset[int]:
        """Return the usual ports of all listeners."""
        return frozenset({self.port, self.metrics_port, *([HTTP_PORT] if self.http else [])})


@dataclass(frozen=True)
class ServiceTable:
    """All services by name, in the order of the file."""

    services: Mapping[str, Service]

    def __getitem__(self, name: str) -> Service:
        return self.services[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.services)

    @property
    def grpc(self) -> tuple[Service, ...]:
        """Return the services with a gRPC server."""
        return tuple(service for service in self.services.values() if service.grpc)

    @property
    def internal(self) -> tuple[Service, ...]:
        """Return the services with a gRPC server that only other services and commands call."""
        return tuple(service for service in self.grpc if not service.http)

    @property
    def databases(self) -> tuple[str, ...]:
        """Return the names of the databases, one for each service with a database."""
        return tuple(service.name for service in self.services.values() if service.database)

    def callers(self, name: str) -> frozenset[str]:
        """Return the services that call a service."""
        return frozenset(each.name for each in self.services.values() if name in each.calls)

    def signs(self, name: str) -> bool:
        """Return True if a service calls others over gRPC, and therefore has an identity key."""
        return any(self.services[callee].grpc for callee in self.services[name].calls)

    @property
    def start_order(self) -> tuple[Service, ...]:
        """Return the services with callees before their callers.

        Services at the same distance from the ends of the calls start in the order of the table,
        model servers first, because they load longest.
        """
        sorter = TopologicalSorter({each.name: each.calls for each in self.services.values()})
        sorter.prepare()
        order: list[Service] = []
        while ready := sorter.get_ready():
            level = [service for name, service in self.services.items() if name in ready]
            order += sorted(level, key=lambda service: service.grpc)
            sorter.done(*ready)
        return tuple(order)


@cache
def service_table() -> ServiceTable:
    """Return the table of this clone.

    Raises:
        ConfigError: a row is invalid; see `parse_table`.
    """
    return parse_table(FILE.read_text())


def parse_table(text: str) -> ServiceTable:
    """Parse and check the text of services.toml.

    Raises:
        ConfigError: a name, a field, a type or a value is not allowed, a port is used twice, a
            called service is unknown, services call each other in a cycle, or two services have the
            public HTTP port. The error names the field as SERVICE.FIELD and the allowed values.
    """
    services = {name: _parse_service(name, row) for name, row in tomllib.loads(text).items()}
    used: dict[int, str] = {}
    for service in services.values():
        for port in sorted(service.ports):
            if port in used:
                raise _refusal(
                    f"{service.name}.port",
                    f"{port} is a port of {used[port]}",
                    "DUPLICATE",
                    f"a port that no other service has, as port or + {METRICS_OFFSET}",
                )
            used[port] = service.name
        _check_members(f"{service.name}.calls", service.calls, services)
    table = ServiceTable(services)
    try:
        _ = table.start_order
    except CycleError as error:
        cycle = " → ".join(reversed(error.args[1]))
        raise _refusal(
            f"{error.args[1][-1]}.calls", f"{cycle} is a cycle", "CYCLE", "calls without a cycle"
        ) from error
    return table


def _parse_service(name: str, row: Any) -> Service:
    if not NAME.fullmatch(name):
        raise _refusal(name, "is not a name of a service", "INVALID", NAME.pattern)
    if not isinstance(row, dict):
        raise _refusal(name, "is not a table", "INVALID", f"[{name}]")
    allowed = {field.name: field.type for field in fields(Service) if field.name != "name"}
    for key, value in row.items():
        field = f"{name}.{key}"
        if key not in allowed:
            raise _refusal(field, "is unknown", "UNKNOWN", ", ".join(allowed))
        if allowed[key] is bool and not isinstance(value, bool):
            raise _refusal(field, f"is {value!r}", "INVALID", "true, false")
    port = row.get("port")
    if type(port) is not int or not 1024 <= port < 65536 - METRICS_OFFSET:
        limit = f"1024 to {65535 - METRICS_OFFSET}"
        raise _refusal(f"{name}.port", f"is {port!r}", "OUT_OF_RANGE", limit)
    lists = {key: row.get(key, []) for key in LISTS}
    for key, value in lists.items():
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise _refusal(f"{name}.{key}", f"is {value!r}", "INVALID", "a list of strings")
        lists[key] = tuple(value)
    for key, members in (("keys", KEYS), ("prepare", PREPARE)):
        _check_members(f"{name}.{key}", lists[key], members)
    database = _parse_database(f"{name}.database", row["database"]) if "database" in row else None
    return Service(name, **{**row, **lists, "database": database})


def _parse_database(field: str, value: Any) -> Database:
    allowed = [each.name for each in fields(Database)]
    if not isinstance(value, dict):
        raise _refusal(field, f"is {value!r}", "INVALID", "{ driver = …, file = … }")
    for key in value:
        if key not in allowed:
            raise _refusal(f"{field}.{key}", "is unknown", "UNKNOWN", ", ".join(allowed))
    database = Database(value.get("driver", ""), value.get("file", ""))
    _check_members(f"{field}.driver", [database.driver], DRIVERS)
    if database.file and not FILE_URL.fullmatch(database.file):
        raise _refusal(f"{field}.file", f"is {database.file!r}", "INVALID", FILE_URL.pattern)
    return database


def _check_members(field: str, values: Iterable[str], allowed: Iterable[str]) -> None:
    for value in values:
        if value not in allowed:
            raise _refusal(field, f"{value!r} is unknown", "UNKNOWN", ", ".join(allowed))


def _refusal(field: str, problem: str, reason: str, limit: str) -> ConfigError:
    text = f"services/services.toml: {field}: {problem}; allowed: {limit}"
    return ConfigError(text, field=field, reason=reason, limit=limit)
