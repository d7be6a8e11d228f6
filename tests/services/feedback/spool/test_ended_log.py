"""The end of a replica with events in its log, and the command that relays the log afterwards."""

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from services.feedback import __main__ as service
from services.feedback.kafka import stream as kafka
from services.feedback.kafka.relay import PublishError
from services.feedback.settings import FeedbackSettings
from services.feedback.spool.log import Entry, Record
from services.feedback.spool.registry import EventsWaitingError, LogState, SpoolRegistry
from services.feedback.spool.spool import Spool
from tests.services.feedback.samples import KEY, MASTER, entry
from tests.support.errors import refused

ROOM = 1 << 20
Run = Callable[..., int]


@pytest.fixture
def settings(
    tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> FeedbackSettings:
    """Return the settings of a replica, which are in the environment as well."""
    values = {
        "principal_key": KEY,
        "master_key": MASTER,
        "database_url": postgres_url,
        "kafka_bootstrap": "127.0.0.1:1",
        "spool_directory": str(tmp_path / "spool"),
        "object_directory": str(tmp_path / "objects"),
    }
    for name, value in values.items():
        monkeypatch.setenv(f"TW_FEEDBACK_{name.upper()}", value)
    return FeedbackSettings()  # type: ignore[call-arg]


@pytest.fixture
def run(settings: FeedbackSettings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `python -m services.feedback …` in this process and return its exit status."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["feedback", *arguments])
        return service.main()

    return run


@pytest.fixture
def registry(postgres_engine: Engine) -> SpoolRegistry:
    return SpoolRegistry(postgres_engine, "feedback-9")


class Broker:
    """Publisher with a list of entries; rejects them on request."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.is_away = self.is_closed = False

    def publish(self, records: Sequence[Record]) -> None:
        if self.is_away:
            raise PublishError("away")
        self.entries += [record.entry for record in records]

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    broker = Broker()
    monkeypatch.setattr(kafka, "KafkaPublisher", lambda *arguments: broker)
    return broker


def abandoned_log(settings: FeedbackSettings, registry: SpoolRegistry) -> Path:
    """Make the log of an ended replica with two events, and return its folder."""
    folder = settings.spool_directory / "feedback"
    spool = Spool(folder, max_bytes=ROOM, segment_bytes=ROOM)
    spool.append([entry("a"), entry("b")])
    registry.report([LogState("feedback", spool.topic_id, folder, 2, 2)])
    spool.close()
    return folder


async def test_a_replica_that_ends_with_events_reports_them_and_fails(
    settings: FeedbackSettings, registry: SpoolRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @asynccontextmanager
    async def nothing(*_: object) -> AsyncIterator[None]:
        yield

    for name in ("relaying", "sinking"):
        monkeypatch.setattr(kafka, name, nothing)

    async def replica(*events: Entry) -> None:
        async with service.wiring(settings) as (registration,):
            owned = registry.logs()
            assert sorted(each.stream for each in owned) == ["feedback", "turns"]
            await registration.servicer._feedback.append(events)

    with refused(EventsWaitingError, field="spool_directory", limit="1"):
        await replica(entry("a"))
    (row,) = registry.logs()
    assert (row.stream, row.waiting, row.end_offset) == ("feedback", 1, 1)
    assert row.directory == str(settings.spool_directory / "feedback")


def test_waiting_events_are_exit_status_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_service(*_: object, **__: object) -> None:
        raise EventsWaitingError("events wait", field="spool_directory", limit="1")

    monkeypatch.setattr(service, "run_service", run_service)
    assert run() == service.EXIT_EVENTS_WAITING == 3


def test_the_log_of_an_ended_replica_is_relayed_with_the_same_identity(
    settings: FeedbackSettings, registry: SpoolRegistry, broker: Broker, run: Run
) -> None:
    folder = abandoned_log(settings, registry)
    assert run("relay", str(folder.parent)) == 0
    assert broker.entries == [entry("a"), entry("b")]
    assert broker.is_closed
    assert registry.logs() == []
    spool = Spool(folder, max_bytes=ROOM, segment_bytes=ROOM)
    assert (spool.start_offset, spool.end_offset) == (2, 2), "the log is empty"
    spool.close()


def test_events_stay_without_a_broker(
    settings: FeedbackSettings, registry: SpoolRegistry, broker: Broker, run: Run, capsys
) -> None:
    folder = abandoned_log(settings, registry)
    broker.is_away = True
    assert run("relay", str(folder.parent)) == 1
    assert "away" in capsys.readouterr().err
    assert [each.waiting for each in registry.logs()] == [2]
    broker.is_away = False
    assert run("relay", str(folder.parent)) == 0
    assert len(broker.entries) == 2


def test_the_log_of_a_running_replica_is_not_touched(
    settings: FeedbackSettings, registry: SpoolRegistry, broker: Broker, run: Run
) -> None:
    folder = abandoned_log(settings, registry)
    owner = Spool(folder, max_bytes=ROOM, segment_bytes=ROOM)
    assert run("relay", str(folder.parent)) == 1
    assert broker.entries == []
    assert len(registry.logs()) == 1
    owner.close()


def test_a_folder_without_a_log_is_named(tmp_path: Path, run: Run, capsys) -> None:
    assert run("relay", str(tmp_path)) == 2
    assert capsys.readouterr().err.startswith(f"folder: {tmp_path} ")


def test_logs_are_listed_and_a_lost_one_is_forgotten(
    settings: FeedbackSettings, registry: SpoolRegistry, run: Run, capsys
) -> None:
    folder = abandoned_log(settings, registry)
    (row,) = registry.logs()
    assert run("spools") == 0
    line = capsys.readouterr().out
    assert f"owner=feedback-9 folder={folder} log={row.topic_id} waiting=2 " in line
    assert run("spools", "--forget", "unknown") == 2
    assert run("spools", "--forget", row.topic_id) == 0
    assert registry.logs() == []
