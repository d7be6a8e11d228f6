"""Several replicas of the model server behind one name, each with versions of its own."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import (
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from services.generator.__main__ import open_http
from services.generator.answering.engine import Timeouts
from services.generator.answering.model_server_replicas import ModelServerReplicas, resolved
from services.generator.answering.presets import Sampling
from services.generator.answering.stream import Chunk
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    generator_service,
    model_directory,
    text_of,
    until_ready,
)
from tests.support.errors import refused

MESSAGES = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="Hi")]
SAMPLING = Sampling(temperature=1.0, top_p=1.0, max_tokens=1)
HANG_SECONDS, RETRY_SECONDS = 2.0, 0.5
QUEUE_FULL: tuple[int, dict[str, Any]] = (429, {"error": {}})


@dataclass
class Replicas:
    """Fake replicas, with the addresses that the name has at the moment."""

    http: aiohttp.ClientSession
    fakes: Sequence[FakePredictor]
    urls: list[str]
    name_is_known: bool = True
    server: ModelServerReplicas = field(init=False)

    def __post_init__(self) -> None:
        self.server = ModelServerReplicas(
            self.http, self._addresses, Timeouts(5, 5, HANG_SECONDS), 5, RETRY_SECONDS
        )

    async def _addresses(self) -> Sequence[str]:
        if not self.name_is_known:
            raise socket.gaierror("no such name")
        return self.urls

    async def answer(self, on_chunk: Callable[[Chunk], None] = lambda _: None) -> None:
        await self.server.answer("v1", MESSAGES, SAMPLING, on_chunk)

    @property
    def answers(self) -> list[int]:
        return [len(fake.requests) for fake in self.fakes]


@asynccontextmanager
async def replicas(*fakes: FakePredictor) -> AsyncIterator[Replicas]:
    """Start the replicas and read their versions once."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(open_http(1.0, ""))
        ports = [await stack.enter_async_context(predictor_server(fake)) for fake in fakes]
        found = Replicas(http, fakes, [f"http://127.0.0.1:{port}" for port in ports])
        await found.server.index()
        yield found


def holding(*versions: str, **fields: Any) -> FakePredictor:
    return FakePredictor(states=dict.fromkeys(versions, "READY"), **fields)


async def test_a_version_is_loaded_into_every_replica() -> None:
    async with replicas(FakePredictor(), FakePredictor()) as world:
        await world.server.load("v1", "/models/v1")
        assert [fake.states for fake in world.fakes] == [{"v1": "READY"}] * 2
        assert await world.server.index() == {"v1": True}


async def test_running_answers_are_spread_over_the_replicas() -> None:
    slow = {"v1": 0.5}
    async with replicas(
        holding("v1", delays=slow), holding("v1", delays=slow), holding("v1", delays=slow)
    ) as world:
        await asyncio.gather(*(world.answer() for _ in range(9)))
        assert world.answers == [3, 3, 3]


async def test_a_new_replica_gets_the_versions_and_then_answers() -> None:
    async with replicas(holding("v1"), FakePredictor()) as world:
        both = world.urls
        world.urls = both[:1]
        assert await world.server.index() == {"v1": True}
        world.urls = both
        assert await world.server.index() == {"v1": True}
        await asyncio.gather(*(world.answer() for _ in range(4)))
        assert world.answers == [4, 0]
        await world.server.load_missing("v1", "/models/v1")
        assert [fake.counters.loads for fake in world.fakes] == [[], ["v1"]]
        slow = {"v1": 0.3}
        for fake in world.fakes:
            fake.delays = slow
        await asyncio.gather(*(world.answer() for _ in range(4)))
        assert world.answers == [6, 2]


async def test_a_version_that_one_replica_cannot_load_is_served_by_the_others() -> None:
    async with replicas(FakePredictor(), FakePredictor(broken={"v1": "no memory"})) as world:
        await world.server.load("v1", "/models/v1")
        assert await world.server.index() == {"v1": True}
        await world.server.load_missing("v1", "/models/v1")
        assert world.fakes[1].counters.loads == ["v1"], "asked again before the wait has ended"
        await asyncio.sleep(RETRY_SECONDS)
        await world.server.load_missing("v1", "/models/v1")
        assert world.fakes[1].counters.loads == ["v1", "v1"]
        await world.answer()
        assert world.answers == [1, 0]


async def test_a_version_that_no_replica_can_load_is_refused_with_the_reason() -> None:
    broken = {"v1": "no tokenizer.json"}
    async with replicas(FakePredictor(broken=broken), FakePredictor(broken=broken)) as world:
        with refused(FailedPreconditionError) as caught:
            await world.server.load("v1", "/models/v1")
    assert "no tokenizer.json" in caught.value.text


@pytest.mark.parametrize(
    "other", [FakePredictor(), holding("v1", refusal=QUEUE_FULL)], ids=["lost", "full"]
)
async def test_an_answer_moves_to_a_replica_that_can_give_it(other: FakePredictor) -> None:
    """The index still lists the version of the replica that lost it."""
    other.states = {"v1": "READY"}
    async with replicas(holding("v1"), other) as world:
        if other.refusal is None:
            other.states = {}
        await asyncio.gather(*(world.answer() for _ in range(4)))
        assert world.answers[0] == 4
        assert world.answers[1] >= 1


async def test_an_answer_moves_away_from_a_replica_that_has_just_ended() -> None:
    async with replicas(holding("v1")) as world, predictor_server(holding("v1")) as port:
        world.urls.append(f"http://127.0.0.1:{port}")
        async with predictor_server(holding("v1")) as ended:
            world.urls.append(f"http://127.0.0.1:{ended}")
            assert await world.server.index() == {"v1": True}
        await asyncio.gather(*(world.answer() for _ in range(6)))


async def test_a_full_queue_in_every_replica_is_reported() -> None:
    async with replicas(*(holding("v1", refusal=QUEUE_FULL) for _ in range(2))) as world:
        with refused(ResourceExhaustedError, reason="MODEL_QUEUE_FULL"):
            await world.answer()
        assert world.answers == [1, 1]


async def test_an_answer_that_has_begun_is_not_repeated() -> None:
    cut = {"cut_after": 1, "pace_seconds": 0.05}
    async with replicas(holding("v1", **cut), holding("v1", **cut)) as world:
        with refused(UnavailableError, reason="MODEL_SERVER_LOST"):
            await world.answer()
        assert sum(world.answers) == 1


async def test_answers_that_wait_for_a_hanging_replica_move_to_another() -> None:
    hanging = holding("v1", delays={"v1": 3600.0})
    async with replicas(hanging, holding("v1")) as world:
        waiting = [asyncio.create_task(world.answer()) for _ in range(6)]
        while hanging.counters.running or not hanging.requests:
            await asyncio.sleep(0.01)
        hanging.hanging.set()
        while not all(task.done() for task in waiting):
            assert await world.server.index() == {"v1": True}
            await asyncio.sleep(0.05)
        await asyncio.gather(*waiting)
        assert world.answers[1] == 6


async def test_a_retired_version_is_unloaded_from_every_replica_and_kept_where_it_answers() -> None:
    async with replicas(holding("v1"), holding("v1")) as world:
        world.fakes[1].in_use["v1"] = 1
        with refused(FailedPreconditionError):
            await world.server.unload("v1")
        assert [{*fake.states} for fake in world.fakes] == [set(), {"v1"}]
        assert await world.server.index() == {"v1": True}
        world.fakes[1].in_use["v1"] = 0
        await world.server.unload("v1")
        assert await world.server.index() == {}
        with refused(NotFoundError):
            await world.server.unload("v1")


async def test_a_version_of_a_silent_replica_is_not_forgotten() -> None:
    async with replicas(FakePredictor(), holding("v1")) as world:
        world.fakes[1].hanging.set()
        async with asyncio.timeout(20):
            while await world.server.index() != {"v1": False}:
                await asyncio.sleep(0.05)
        with refused(NotFoundError):
            await world.answer()


async def test_replicas_stay_known_while_their_name_cannot_be_resolved() -> None:
    async with replicas(holding("v1")) as world:
        world.name_is_known = False
        assert await world.server.index() == {"v1": True}
        unknown = Replicas(world.http, [], [], name_is_known=False)
        with refused(UnavailableError, reason="MODEL_NOT_READY"):
            await unknown.server.index()


async def test_each_address_of_a_name_is_a_replica_and_a_certificate_keeps_its_name() -> None:
    assert "http://127.0.0.1:8000" in await resolved("http://localhost:8000")()
    assert await resolved("http://[::1]:8000")() == ["http://[::1]:8000"]
    assert await resolved("https://localhost:8000")() == ["https://localhost:8000"]


async def test_a_generator_serves_and_promotes_versions_in_all_replicas(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second replica starts empty after the first version is served."""
    hosts = ["127.0.0.1"]
    lookup = socket.getaddrinfo

    def by_name(host: Any, *words: Any, **options: Any) -> Any:
        if host != "model-servers":
            return lookup(host, *words, **options)
        return [found for known in hosts for found in lookup(known, *words, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", by_name)
    first, second = FakePredictor(), FakePredictor()
    async with (
        predictor_server(first) as port,
        predictor_server(second, port, "127.0.0.2"),
        generator_service(tmp_path, port, predictor_url=f"http://model-servers:{port}") as stubs,
    ):
        await until_ready(stubs, "v1")
        assert not second.states
        hosts.append("127.0.0.2")
        async with asyncio.timeout(10):
            while second.states != {"v1": "READY"}:
                assert text_of(await stubs.generate()) == "Hello there."
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        both = {"v1": "READY", "v2": "READY"}
        assert [first.states, second.states] == [both, both]
        await stubs.promote("v2")
        async with asyncio.timeout(10):
            while [first.states, second.states] != [{"v2": "READY"}] * 2:
                await asyncio.sleep(0.02)
