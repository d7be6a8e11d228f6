"""Shared fixtures of all fault scenarios, and the record of their outcomes.

kafka-python leaves sockets of failed connections to the garbage collector, and the resulting
warnings are errors elsewhere. If $THUMBWHEEL_FAULTS names a file, as in `make faults`, each passed
test appends the values of its `record_property` calls: `fired` (number of faults that occurred) and
measurements.
"""

import gc
import logging
import os
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from infra.docs import faults
from tests.faults.feedback import Stack, stack_on
from tests.servers import KafkaServer, PostgresServer
from tests.services.feedback.databases import without_authorities
from tests.services.generator.conftest import database, shared_database
from tests.services.session.homes import postgres_home, postgres_template

__all__ = [
    "database",
    "postgres_home",
    "postgres_template",
    "shared_database",
    "without_authorities",
]

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    file = os.environ.get("THUMBWHEEL_FAULTS")
    if file and report.when == "call" and report.passed:
        words = str(item.module.__doc__)
        one = faults.outcome(words, item.nodeid, report.user_properties, report.duration)
        if one:
            faults.add(one, Path(file))
    return report


@pytest.fixture(autouse=True)
def quiet() -> None:
    """Silence kafka-python, since captured log records keep errors and thereby sockets alive."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Collect garbage after the test, to leave no sockets to the next test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def feedback_stack(tmp_path: Path, kafka: KafkaServer, postgres: PostgresServer) -> Iterator[Stack]:
    """Yield a stack with topics and database of its own, on the shared servers."""
    with stack_on(tmp_path, kafka, postgres) as stack:
        yield stack
