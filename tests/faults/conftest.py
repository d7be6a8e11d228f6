"""What all fault scenarios need. kafka-python drops the sockets of failed connections for the
garbage collector to close, and a warning about each is an error elsewhere. And where
$THUMBWHEEL_FAULTS names a file, as `make faults` does, each test that passes leaves there what it
told `record_property`: `fired`, how often its fault struck, and its figures.
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
    """Kept log records keep the errors in them, and those the sockets."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """So that none is left for the next test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def feedback_stack(tmp_path: Path, kafka: KafkaServer, postgres: PostgresServer) -> Iterator[Stack]:
    """Topics and a database of the scenario's own, on the shared servers."""
    with stack_on(tmp_path, kafka, postgres) as stack:
        yield stack
