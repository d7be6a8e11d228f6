"""Rules of the repository of versions, with versions that only count."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.predictor.errors import (
    InvalidRequestError,
    ModelRefusedError,
    UnavailableError,
    VersionConflictError,
    VersionInUseError,
    VersionNotFoundError,
)
from services.predictor.repository import Journal, Repository, RepositoryLimits
from services.predictor.repository_entry import State
from tests.support.errors import refused

SETTING = "TW_TEST_MAX_VERSIONS"


@dataclass(eq=False)
class CountingVersion:
    """A version whose answers end when `idle` is set."""

    name: str
    created: int
    active: int = 0
    failure: str = ""
    closed: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    async def drain(self, seconds: float) -> None:
        if self.active:
            await self.idle.wait()

    async def close(self) -> None:
        self.closed += 1


@dataclass
class Loads:
    """Loader that is as slow as the test wants."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    started: list[str] = field(default_factory=list)
    running: int = 0
    fails: bool = False

    async def load(self, name: str, directory: Path) -> CountingVersion:
        self.started.append(name)
        self.running += 1
        assert self.running == 1, "two loads at once"
        try:
            await self.gate.wait()
            if self.fails:
                raise ModelRefusedError("no weights", field="weights")
            return CountingVersion(name, created=-len(self.started))
        finally:
            self.running -= 1


@pytest.fixture
def loads() -> Loads:
    found = Loads()
    found.gate.set()
    return found


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "loaded.json")


@pytest.fixture
def repository(loads: Loads, journal: Journal) -> Repository[CountingVersion]:
    return Repository(loads.load, RepositoryLimits(2, SETTING, 30.0), journal)


@pytest.fixture
def directory(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a directory with a manifest of this name."""

    def write(name: str) -> Path:
        (found := tmp_path / name).mkdir(exist_ok=True)
        (found / "manifest.json").write_text(name)
        return found

    return write


Directory = Callable[[str], Path]
Versions = Repository[CountingVersion]


def states(repository: Versions) -> dict[str, State]:
    return {entry.name: entry.state for entry in repository.index()}


async def settle(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


async def test_loads_of_a_version_are_joined_and_of_others_follow(
    repository: Versions, loads: Loads, directory: Directory
) -> None:
    await asyncio.gather(*(repository.load(name, directory(name)) for name in ("b", "b", "a")))
    await repository.load("b", directory("b"))
    assert sorted(loads.started) == ["a", "b"]
    assert states(repository) == {"a": State.READY, "b": State.READY}
    assert [version.name for version in repository.ready()] == loads.started[::-1]
    with refused(InvalidRequestError, field="model", reason="MISSING"):
        repository.get(None)
    with refused(VersionConflictError, field="version"):
        await repository.load("a", directory("b"))


async def test_limit_names_its_setting_and_counts_versions_that_drain(
    repository: Versions, directory: Directory
) -> None:
    for name in ("a", "b"):
        await repository.load(name, directory(name))
    version = repository.get("a")
    version.active = 1
    unloading = asyncio.create_task(repository.unload("a"))
    await settle(lambda: states(repository)["a"] is State.UNAVAILABLE)
    with refused(
        UnavailableError, field="version", reason="OVERLOADED", limit="2 versions"
    ) as full:
        await repository.load("c", directory("c"))
    assert SETTING in full.value.text
    with refused(UnavailableError, field="version", reason="STOPPED"):
        await repository.load("a", directory("a"))
    version.idle.set()
    await unloading
    await repository.load("c", directory("c"))
    assert set(states(repository)) == {"b", "c"}


async def test_failed_load_is_listed_with_its_reason_and_holds_no_place(
    repository: Versions, loads: Loads, directory: Directory
) -> None:
    loads.fails = True
    for name in ("a", "b", "c"):
        with refused(ModelRefusedError, field="weights"):
            await repository.load(name, directory(name))
    assert {entry.reason for entry in repository.index()} == {"no weights"}
    with refused(UnavailableError, field="model", reason="UNAVAILABLE"):
        repository.get("a")
    loads.fails = False
    await repository.load("a", directory("a"))
    assert repository.get("a").name == "a"
    await repository.unload("b")
    assert states(repository) == {"a": State.READY, "c": State.UNAVAILABLE}


async def test_unload_of_a_failed_load_leaves_the_next_load(
    repository: Versions, loads: Loads, directory: Directory
) -> None:
    loads.gate.clear()
    loads.fails = True

    async def load_twice() -> None:
        with refused(ModelRefusedError, field="weights"):
            await repository.load("a", directory("a"))
        loads.fails = False
        await repository.load("a", directory("a"))

    loading = asyncio.create_task(load_twice())
    await settle(lambda: loads.running == 1)
    unloading = asyncio.create_task(repository.unload("a"))
    await asyncio.sleep(0)
    loads.gate.set()
    await asyncio.gather(loading, unloading)
    assert states(repository) == {"a": State.READY}


async def test_unload_continues_without_its_caller_and_others_join(
    repository: Versions, directory: Directory, journal: Journal
) -> None:
    await repository.load("a", directory("a"))
    version = repository.get("a")
    version.active = 1
    with refused(VersionInUseError, field="version"):
        await repository.unload("a", only_idle=True)
    assert states(repository) == {"a": State.READY}
    assert journal.read().keys() == {"a"}
    left = asyncio.create_task(repository.unload("a"))
    await settle(lambda: states(repository)["a"] is State.UNAVAILABLE)
    left.cancel()
    await asyncio.wait([left])
    joined = asyncio.create_task(repository.unload("a"))
    with refused(UnavailableError, field="model", reason="STOPPED"):
        repository.get("a")
    await asyncio.sleep(0)
    assert not joined.done()
    version.idle.set()
    await joined
    assert version.closed == 1
    assert states(repository) == {}
    assert journal.read() == {}
    with refused(VersionNotFoundError):
        await repository.unload("a")


async def test_failed_version_holds_its_place_until_a_new_load(
    repository: Versions, directory: Directory
) -> None:
    await repository.load("a", directory("a"))
    failed = repository.get("a")
    failed.failure = "the engine failed"
    assert repository.has_failed_version()
    assert [(entry.state, entry.reason) for entry in repository.index()] == [
        (State.UNAVAILABLE, "the engine failed")
    ]
    assert repository.ready() == []
    await repository.load("b", directory("b"))
    with refused(UnavailableError, reason="OVERLOADED"):
        await repository.load("c", directory("c"))
    await asyncio.gather(*(repository.load("a", directory("a")) for _ in range(2)))
    assert failed.closed == 1
    assert repository.get("a") is not failed
    assert not repository.has_failed_version()


@pytest.mark.parametrize("cancel_loads", [False, True])
async def test_close_drains_versions_and_ends_loads(
    loads: Loads, journal: Journal, directory: Directory, cancel_loads: bool
) -> None:
    limits = RepositoryLimits(3, SETTING, 30.0)
    repository = Repository(loads.load, limits, journal, cancel_loads=cancel_loads)
    await repository.load("a", directory("a"))
    version = repository.get("a")
    version.active = 1
    loads.gate.clear()
    loading = [asyncio.create_task(repository.load(name, directory(name))) for name in ("b", "c")]
    await settle(lambda: len(loads.started) == 2)
    closing = asyncio.create_task(repository.close())
    version.idle.set()
    await settle(lambda: version.closed == 1)
    if not cancel_loads:
        assert not closing.done()
        loads.gate.set()
    async with asyncio.timeout(20):
        await closing
    ends = await asyncio.gather(*loading, return_exceptions=True)
    expected = (UnavailableError,) if cancel_loads else (type(None),)
    assert tuple({type(end) for end in ends}) == expected
    assert states(repository) == {}
    # The next start loads them again.
    assert len(journal.read()) == (1 if cancel_loads else 3)
    for refused_call in (
        repository.load("d", directory("d")),
        repository.load("a", directory("a")),
    ):
        with refused(UnavailableError, reason="STOPPED"):
            await refused_call
