"""The service table refuses invalid rows, and the start order follows from the calls."""

import pytest

from infra.service_table import DRIVERS, FILE, KEYS, parse_table, service_table
from tests.support.errors import refused
from training.errors import ConfigError

ROWS = FILE.read_text()


def test_start_order_has_callees_before_callers_and_model_servers_first() -> None:
    order = [service.name for service in service_table().start_order]
    assert order[0] == "predictor"
    assert sorted(order) == sorted(service_table().names)
    for service in service_table().services.values():
        assert all(order.index(callee) < order.index(service.name) for callee in service.calls)


def test_ports_of_all_listeners_are_distinct() -> None:
    ports = [port for service in service_table().services.values() for port in service.ports]
    assert len(ports) == len(set(ports))


@pytest.mark.parametrize(
    ("row", "field", "reason", "limit"),
    [
        ("[echo]\nport = 50060\ncalls = ['nothing']", "echo.calls", "UNKNOWN", "gateway"),
        ("[echo]\nport = 50052", "echo.port", "DUPLICATE", "no other service"),
        ("[echo]\nport = 51052", "echo.port", "DUPLICATE", "+ 1000"),
        ("[echo]\nport = 8080", "echo.port", "DUPLICATE", "no other service"),
        ("[echo]\nport = 50060\nhttp = true", "echo.port", "DUPLICATE", "no other service"),
        ("[echo]\nport = 80", "echo.port", "OUT_OF_RANGE", "1024 to 64535"),
        ("[echo]\nport = '50060'", "echo.port", "OUT_OF_RANGE", "1024 to 64535"),
        ("[echo]", "echo.port", "OUT_OF_RANGE", "1024 to 64535"),
        ("[echo]\nport = 50060\ncolour = 'red'", "echo.colour", "UNKNOWN", "calls"),
        ("[echo]\nport = 50060\nname = 'echo'", "echo.name", "UNKNOWN", "calls"),
        ("[echo]\nport = 50060\nspool = 'yes'", "echo.spool", "INVALID", "true, false"),
        ("[echo]\nport = 50060\ncalls = 'session'", "echo.calls", "INVALID", "list"),
        ("[echo]\nport = 50060\ncalls = ['echo']", "echo.calls", "CYCLE", "cycle"),
        ("[echo]\nport = 50060\nkeys = ['other']", "echo.keys", "UNKNOWN", KEYS[1]),
        ("[echo]\nport = 50060\nprepare = ['serve']", "echo.prepare", "UNKNOWN", "topics"),
        ("[echo]\nport = 50060\ndatabase = 'x'", "echo.database", "INVALID", "driver"),
        ("[echo]\nport = 50060\ndatabase = {}", "echo.database.driver", "UNKNOWN", DRIVERS[0]),
        ("[echo]\nport = 50060\ndatabase.url = 'x'", "echo.database.url", "UNKNOWN", "driver"),
        (
            f"[echo]\nport = 50060\ndatabase = {{ driver = '{DRIVERS[0]}', file = '/x.db' }}",
            *("echo.database.file", "INVALID", "sqlite"),
        ),
        ("['Echo service']\nport = 50060", "Echo service", "INVALID", "a-z"),
    ],
)
def test_invalid_row_is_refused_with_field_and_limit(
    row: str, field: str, reason: str, limit: str
) -> None:
    with refused(ConfigError, field=field, reason=reason) as caught:
        parse_table(f"{ROWS}\n{row}\n")
    assert limit in caught.value.limit
    assert field in caught.value.text
