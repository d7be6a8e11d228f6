"""Order of the tests, their distribution over the workers of `make test`, and fixtures for the real
servers.

The servers' clients take a second to import, so the fixtures import them.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from infra.install import requirements

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadGroupScheduling

    from tests.servers import KafkaServer, PostgresServer, S3Server, Server, ValkeyServer

# Ray lowers the priority of its workers (niceness 15): beside two busy processors they would hardly
# run.
os.environ.setdefault("RAY_worker_niceness", "0")
# Threads of torch that wait do not spin: the other workers need the processor.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No deadline for examples: their duration depends on the load of the machine.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

ROOT = Path(__file__).resolve().parents[1]
# Renderings of the chart are cached within a process, so one worker runs all tests of the chart.
CHARTS = ROOT / "tests" / "charts"
# Fixtures that take seconds, and the group of the tests that use them: real servers (without
# Valkey, which starts at once), whole systems, training runs. A test that uses several belongs to
# the group of the first.
SHARED = {
    "kafka_of_three": "kafka",
    "kafka": "kafka",
    "s3": "databases",
    "postgres": "databases",
    "stack": "stack",
    "system": "watched",
    "deployed": "cluster",
    "layouts": "layouts",
    "gguf_path": "small model",
    "whole": "small model",
}
SERVERS = ("kafka_of_three", "kafka", "s3", "postgres")
started: dict[str, Server] = {}
last_uses: dict[pytest.Item, list[str]] = {}


def turn(item: pytest.Item) -> tuple[bool, bool, float]:
    """Sort key of a test: slow tests first, the longest timeouts before others; tests of the shared
    release on a cluster last, because the release uses a processor from the first of them to the
    last.
    """
    limit = item.get_closest_marker("timeout")
    slow = item.get_closest_marker("slow") is not None
    return "deployed" in fixtures_of(item), not slow, -limit.args[0] if slow and limit else 0


def fixtures_of(item: pytest.Item) -> set[str]:
    """Names of the fixtures of a test, including names in parameters, if the test or its fixtures
    request fixtures at run time.
    """
    names = getattr(item, "fixturenames", ())
    parameters = (
        item.callspec.params.values() if "request" in names and hasattr(item, "callspec") else ()
    )
    return {*names, *(value for value in parameters if isinstance(value, str))}


def pytest_report_header() -> list[str]:
    """Name each missing requirement, and the tests that are skipped, in the first lines of the
    output.
    """
    return [f"missing: {one.name}; tests {one.about} are skipped" for one in requirements.missing()]


def skip_where_missing(items: list[pytest.Item]) -> None:
    """Skip the tests of each missing requirement; in CI they run and fail."""
    if requirements.is_ci():
        return
    for one in requirements.missing():
        for item in items:
            if one.is_needed_by(str(item.path.relative_to(ROOT)), fixtures_of(item)):
                item.add_marker(pytest.mark.skip(reason=f"missing: {one.name}"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling | None:
    """Assign whole groups, and whole modules outside of groups, to one worker, so that their
    fixtures are made once.
    """
    from xdist.scheduler import LoadGroupScheduling

    if config.getoption("dist") != "loadgroup":
        return None

    class ByGroupOrModule(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if group == nodeid else group

    return ByGroupOrModule(config, log)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than processors, because workers wait for timeouts and child processes; at
    most five, as each takes 1.3 GB.
    """
    return min((os.cpu_count() or 1) + 1, 5)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt all modules and collected tests from garbage collections: a million objects, 0.8 s for
    each full collection.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """End the exemption before the process exits: native libraries report surviving objects as
    leaks.
    """
    gc.unfreeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests, skip those that lack a requirement, keep groups together, and note the last
    use of each server.
    """
    items.sort(key=turn)
    skip_where_missing(items)
    gather_groups(items)
    last = {
        (group_of(item), name): item
        for item in items
        for name in fixtures_of(item)
        if name in SERVERS
    }
    for (_, name), item in last.items():
        last_uses.setdefault(item, []).append(name)
    if not config.getoption("loadgroup", False):
        return
    for item in items:
        if group := group_of(item):
            # As xdist marks a group; its own marker has no effect under pytest 9.2 (pytest-xdist,
            # issue 1386).
            item._id = type(item.id).parse(f"{item.nodeid}@{group}")


def group_of(item: pytest.Item) -> str:
    """Name of the group of a test; "" if its module is its group."""
    if CHARTS in item.path.parents:
        return "charts"
    fixtures = fixtures_of(item)
    return next((group for name, group in SHARED.items() if name in fixtures), "")


def gather_groups(items: list[pytest.Item]) -> None:
    """Move the tests of a group to its first test, those with the most expensive server first, so
    that it can be stopped early.
    """

    def rank(item: pytest.Item) -> int:
        return next(
            (number for number, name in enumerate(SERVERS) if name in fixtures_of(item)),
            len(SERVERS),
        )

    first = {
        group: number
        for number, item in reversed(list(enumerate(items)))
        if (group := group_of(item))
    }
    order = {
        item: (first.get(group_of(item), number), rank(item), number)
        for number, item in enumerate(items)
    }
    items.sort(key=order.__getitem__)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Start the servers of a test that an earlier group of this worker has stopped."""
    for name in fixtures_of(item) & started.keys():
        started[name].start()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Stop each server after its last test in a group: an idle Kafka or SeaweedFS takes a tenth of
    a processor.
    """
    yield
    for name in last_uses.get(item, ()):
        if server := started.get(name):
            server.stop()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """One broker, shared: a test that breaks it starts it again."""
    from tests.servers import KafkaServer, running

    with running(KafkaServer(tmp_path_factory.mktemp("kafka"), brokers=1)) as server:
        started["kafka"] = server
        yield server


@pytest.fixture(scope="session")
def kafka_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Three brokers, three copies, two of them in sync for a write."""
    from tests.servers import KafkaServer, running

    with running(KafkaServer(tmp_path_factory.mktemp("kafka-of-three"), brokers=3)) as server:
        started["kafka_of_three"] = server
        yield server


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    from tests.servers import PostgresServer, running

    with running(PostgresServer(tmp_path_factory.mktemp("postgres"))) as server:
        started["postgres"] = server
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    from tests.servers import ValkeyServer, running

    with running(ValkeyServer(tmp_path_factory.mktemp("valkey"))) as server:
        yield server


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    from tests.servers import S3Server, running

    with running(S3Server(tmp_path_factory.mktemp("s3"))) as server:
        started["s3"] = server
        yield server
