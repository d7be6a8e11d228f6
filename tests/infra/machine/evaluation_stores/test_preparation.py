"""Evaluation stores start from an empty folder, keep data and use the mounted secrets."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pg8000.dbapi
import pytest

from infra.machine.evaluation_stores.layout import PORTS, Software, StoreLayout
from infra.machine.evaluation_stores.ping import answers
from infra.machine.evaluation_stores.preparation import (
    prepare_kafka,
    prepare_postgres,
    prepare_s3,
    prepare_valkey,
)
from infra.machine.servers.installation import find_installed
from infra.machine.servers.postgres import USER
from infra.run.supervision.child import Program
from infra.run.supervision.ports import HOST, distinct_free_ports
from infra.service_table import service_table
from tests.servers import Process

# A local address that Postgres does not trust by default.
ELSEWHERE = "127.0.0.2"


@pytest.fixture
def layout(tmp_path: Path) -> StoreLayout:
    (tmp_path / "data").mkdir()
    (tmp_path / "secrets").mkdir()
    for name in ("postgres-password", "secret-key", "valkey-password"):
        (tmp_path / "secrets" / name).write_text("first\n")
    found = find_installed()
    ports = iter(distinct_free_ports(sum(map(len, PORTS.values()))))
    mine = {store: tuple(next(ports) for _ in usual) for store, usual in PORTS.items()}
    return StoreLayout(
        tmp_path / "data", tmp_path / "secrets", Software(found, found.jars), HOST, "tw-kafka", mine
    )


@contextlib.contextmanager
def running(program: Program, layout: StoreLayout) -> Iterator[None]:
    process = Process(program, layout.folder / "log")
    process.start()
    try:
        yield
    finally:
        process.stop()


def ask(layout: StoreLayout, database: str, password: str, statement: str) -> Any:
    """Run a statement as a client on another machine."""
    (port,) = layout.ports["postgres"]
    connection = pg8000.dbapi.connect(
        USER,
        host=ELSEWHERE,
        port=port,
        source_address=(ELSEWHERE, 0),
        password=password,
        database=database,
    )
    with contextlib.closing(connection):
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(statement)
        return cursor.fetchall() if cursor.description else None


@pytest.mark.slow
def test_postgres_has_databases_keeps_rows_and_accepts_new_password(
    layout: StoreLayout,
) -> None:
    layout = dataclasses.replace(layout, listens_on=f"{HOST},{ELSEWHERE}")
    with running(prepare_postgres(layout), layout):
        for database in service_table().databases:
            ask(layout, database, "first", "CREATE TABLE thumbs AS SELECT 1 AS thumb")
    (layout.folder / "data").chmod(0o770)  # as after a remount of a volume
    (layout.secrets / "postgres-password").write_text("it's another")
    with running(prepare_postgres(layout), layout):
        for database in service_table().databases:
            assert list(ask(layout, database, "it's another", "SELECT thumb FROM thumbs")[0]) == [1]
        with pytest.raises(pg8000.dbapi.DatabaseError, match="28P01"):
            ask(layout, "gateway", "first", "SELECT 1")


def test_valkey_probe_needs_the_mounted_password(
    layout: StoreLayout,
) -> None:
    (port,) = layout.ports["valkey"]
    assert not answers(port, "first")
    with running(prepare_valkey(layout), layout):
        assert answers(port, "first")
        assert not answers(port, "second")


def test_kafka_formats_once_and_advertises_its_service(
    layout: StoreLayout,
) -> None:
    first = prepare_kafka(layout)
    written = (layout.folder / "broker-1" / "meta.properties").read_text()
    assert prepare_kafka(layout).command == first.command
    assert (layout.folder / "broker-1" / "meta.properties").read_text() == written
    clients, controllers = layout.ports["kafka"]
    settings = (layout.folder / "broker-1.properties").read_text().splitlines()
    assert f"advertised.listeners=PLAINTEXT://tw-kafka:{clients}" in settings
    assert f"listeners=PLAINTEXT://{HOST}:{clients},CONTROLLER://{HOST}:{controllers}" in settings


def test_object_store_opens_only_the_s3_port(layout: StoreLayout) -> None:
    command = prepare_s3(dataclasses.replace(layout, listens_on=ELSEWHERE)).command
    assert [word for word in command if ELSEWHERE in word] == [f"-s3.ip.bind={ELSEWHERE}"]
    assert '"secretKey": "first"' in (layout.folder / "identities.json").read_text()
