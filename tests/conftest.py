"""Order of the tests, their distribution over the workers of `make test`, and server fixtures.

The fixtures of real servers import their clients lazily, since the imports take a second.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from infra.install import documentation as manuals
from infra.install import requirements

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadGroupScheduling

    from tests.journeys.otlp import Receiver
    from tests.journeys.stack import Stack
    from tests.servers import KafkaServer, PostgresServer, S3Server, Server, ValkeyServer
    from tests.support.newcomer import Newcomer

# Ray lowers the priority of its workers (niceness 15). Next to two busy processors the workers
# would hardly run.
os.environ.setdefault("RAY_worker_niceness", "0")
# Waiting threads of torch must not spin, as other workers need the processor.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No deadline for examples: their duration depends on the load of the machine.
settings.register_profile("busy", deadline=None)
settings.load_profile("busy")

ROOT = Path(__file__).resolve().parents[1]
# Renderings of the chart are cached within a process, so one worker runs all tests of
# the chart.
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


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the device of the stages under test; `make test-gpu` sets cuda and bfloat16."""
    parser.addoption("--device", default="cpu", help="device of training stages (default cpu)")
    parser.addoption("--dtype", default="float32", help="float32 (default) or bfloat16")


def run_order(item: pytest.Item) -> tuple[bool, bool, float]:
    """Return the sort key of a test.

    Slow tests run first, the longest timeouts before others. Tests of the shared release on a
    cluster run last, because the release uses a processor from the first of them to the last.
    """
    limit = item.get_closest_marker("timeout")
    slow = item.get_closest_marker("slow") is not None
    return "deployed" in fixtures_of(item), not slow, -limit.args[0] if slow and limit else 0


def fixtures_of(item: pytest.Item) -> set[str]:
    """Return the names of the fixtures of a test.

    Names in parameters are included if the test or its fixtures request fixtures at run time.
    """
    names = getattr(item, "fixturenames", ())
    parameters = (
        item.callspec.params.values() if "request" in names and hasattr(item, "callspec") else ()
    )
    return {*names, *(value for value in parameters if isinstance(value, str))}


def pytest_report_header() -> list[str]:
    """Report each missing requirement and the skipped tests in the first lines."""
    return [
        f"missing: {requirement.name}; tests {requirement.about} are skipped"
        for requirement in requirements.missing()
    ]


def skip_where_missing(items: list[pytest.Item]) -> None:
    """Skip the tests of each missing requirement; in CI the tests run and fail."""
    if requirements.is_ci():
        return
    for requirement in requirements.missing():
        for item in items:
            if requirement.is_needed_by(str(item.path.relative_to(ROOT)), fixtures_of(item)):
                item.add_marker(pytest.mark.skip(reason=f"missing: {requirement.name}"))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling | None:
    """Assign groups, and modules outside of groups, to one worker each.

    The fixtures of a group or module are then created once.
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
    """Return the number of processors plus one, at most five.

    Workers wait for timeouts and child processes, and each worker needs 1.3 GB.
    """
    return min((os.cpu_count() or 1) + 1, 5)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exempt modules and collected tests from garbage collection.

    They are a million objects, which cost 0.8 s in each full collection.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """End the exemption before the process exits.

    Native libraries otherwise report the surviving objects as leaks.
    """
    gc.unfreeze()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort tests, skip those with missing requirements, and keep groups together.

    The last use of each server is recorded for `pytest_runtest_teardown`.
    """
    items.sort(key=run_order)
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
            # Mark the group as xdist does, since its own marker has no effect under pytest 9.2
            # (pytest-xdist, issue 1386).
            item._id = type(item.id).parse(f"{item.nodeid}@{group}")


def group_of(item: pytest.Item) -> str:
    """Return the group of a test; "" if its module is its group."""
    if CHARTS in item.path.parents:
        return "charts"
    fixtures = fixtures_of(item)
    return next((group for name, group in SHARED.items() if name in fixtures), "")


def gather_groups(items: list[pytest.Item]) -> None:
    """Move the tests of a group to its first test.

    Tests with the most expensive server come first, so that the server can be stopped early.
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
    """Stop each server after its last test in a group.

    An idle Kafka or SeaweedFS uses a tenth of a processor.
    """
    yield
    for name in last_uses.get(item, ()):
        if server := started.get(name):
            server.stop()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Return one shared broker; a test that breaks the broker starts it again."""
    from tests.servers import KafkaServer, running

    with running(KafkaServer(tmp_path_factory.mktemp("kafka"), brokers=1)) as server:
        started["kafka"] = server
        yield server


@pytest.fixture(scope="session")
def kafka_of_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """Return a cluster with three brokers, three replicas, and two in-sync replicas per write."""
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


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    """Receive the spans of `stack`."""
    from tests.journeys.otlp import receiving

    with receiving() as started:
        yield started


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Stack]:
    """Return the embedded system, shared by journeys and attacks because a start takes seconds.

    Tests must restore services they stop.
    """
    from tests.journeys.stack import WITHOUT_QUOTAS, running_stack, shared_environment

    with pytest.MonkeyPatch.context() as environment:
        for name, value in shared_environment(receiver.port).items():
            environment.setenv(name, value)
        with running_stack(tmp_path_factory.mktemp("state"), options=WITHOUT_QUOTAS) as running:
            environment.undo()
            yield running


@pytest.fixture(scope="session")
def documentation() -> Path:
    """Return the folder with the manuals of Debian packages, a subfolder for each."""
    return manuals.find_installed()


@pytest.fixture(scope="session")
def downloads() -> Iterator[Path]:
    """Downloads of this machine that an ordinary user owns; a copy where tests run as root."""
    from tests.support.newcomer import copy_downloads

    with copy_downloads() as folder:
        yield folder


@pytest.fixture
def newcomer(request: pytest.FixtureRequest) -> Iterator[Newcomer]:
    """Provide an ordinary user with a clean clone, for long tests with downloads.

    The commands of the marker `executes` must have been executed at the end of the test.
    """
    from tests.support.newcomer import newcomer

    is_long = request.node.get_closest_marker("long") is not None
    with newcomer(request.getfixturevalue("downloads") if is_long else None) as user:
        yield user
        assert set(request.node.get_closest_marker("executes").args) <= user.executed
