"""Register of write-ahead logs: a row for every log that may hold acknowledged events."""

import logging
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import Engine, text, update

from services.feedback.spool.registry import (
    ABSENT_SECONDS,
    EventsWaitingError,
    LogState,
    RegisteredLog,
    SpoolRegistry,
    require_empty,
    update_absent_metrics,
)
from services.feedback.store import tables
from tests.support.errors import refused

LOG = LogState("feedback", "log-1", Path("/spool/feedback"), 10, 0)
WAITING = LogState("feedback", "log-1", Path("/spool/feedback"), 10, 3)


@pytest.fixture
def registry(engine: Engine) -> SpoolRegistry:
    return SpoolRegistry(engine, "feedback-1")


def silence(engine: Engine, seconds: float) -> None:
    """Move the last reports into the past."""
    with engine.begin() as connection:
        table = tables.spools
        moved = table.c.report_us - int(seconds * 1e6)
        connection.execute(update(table).values(report_us=moved))


def absent(metric: str) -> dict[tuple[str, str], float]:
    """Return the values of a metric of absent logs by stream and owner."""
    return {
        (sample.labels["stream"], sample.labels["owner"]): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name == f"thumbwheel_feedback_absent_spool_{metric}"
    }


def test_a_running_log_has_one_row_with_its_last_state(
    registry: SpoolRegistry, engine: Engine
) -> None:
    registry.report([LOG])
    registry.report([WAITING])
    (row,) = registry.logs()
    assert (row.topic_id, row.stream, row.owner) == ("log-1", "feedback", "feedback-1")
    assert (row.directory, row.end_offset, row.waiting) == ("/spool/feedback", 10, 3)
    assert not row.is_absent
    silence(engine, ABSENT_SECONDS + 1)
    (row,) = registry.logs()
    assert row.is_absent
    # The next pod on the same volume has the log.
    SpoolRegistry(engine, "feedback-7").report([LOG])
    (row,) = registry.logs()
    assert (row.owner, row.waiting, row.is_absent) == ("feedback-7", 0, False)


def test_an_empty_log_leaves_no_row_and_a_waiting_one_stays(
    registry: SpoolRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    registry.report([LOG])
    registry.close(LOG)
    assert registry.logs() == []
    registry.report([LOG])
    with caplog.at_level(logging.ERROR):
        registry.close(WAITING)
    (row,) = registry.logs()
    assert row.waiting == 3
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_late_report_does_not_bring_back_an_ended_log(registry: SpoolRegistry) -> None:
    registry.report([LOG])
    registry.close(LOG)
    registry.report([WAITING])
    assert registry.logs() == []


def test_the_end_is_not_delayed_by_a_missing_database(
    registry: SpoolRegistry, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    registry.report([LOG])
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE spools RENAME TO elsewhere"))
    try:
        registry.close(LOG)
    finally:
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO spools"))
    assert "not recorded" in caplog.text
    assert len(registry.logs()) == 1


def test_waiting_events_are_an_error_at_the_end() -> None:
    require_empty(LOG, LOG)
    with refused(EventsWaitingError, reason="EVENTS_WAITING", limit="3"):
        require_empty(LOG, WAITING)


def test_metrics_show_logs_without_an_owner_and_forget_those_that_return() -> None:
    def row(stream: str, log_id: str, waiting: int, silent_seconds: float) -> RegisteredLog:
        return RegisteredLog(log_id, stream, "feedback-1", "/spool", 10, waiting, silent_seconds)

    shown: set[tuple[str, str]] = set()
    late = ABSENT_SECONDS + 5
    rows = [row("feedback", "a", 3, late), row("feedback", "b", 4, late + 1)]
    update_absent_metrics([*rows, row("turns", "c", 9, ABSENT_SECONDS - 1)], shown)
    labels = ("feedback", "feedback-1")
    assert absent("seconds") == {labels: late + 1}
    assert absent("events") == {labels: 7}
    update_absent_metrics([row("feedback", "a", 0, 1)], shown)
    assert absent("seconds") == absent("events") == {}
