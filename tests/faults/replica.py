"""A minimal service on the chassis, controlled by the text of its calls.

Run as `python -m tests.faults.replica`. Enhance first performs the commands in its text, then
answers with its process id. Generate streams deltas as described by user_key.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from pydantic_settings import SettingsConfigDict
from thumbwheel.enhancer.v1 import enhancer_pb2, enhancer_pb2_grpc
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from services.chassis.channel import call_stream, call_unary, open_channel
from services.chassis.errors import ResourceExhaustedError, UnavailableError
from services.chassis.identity import current_call
from services.chassis.server import Registration, run_service, serving
from services.chassis.settings import ServiceSettings, load_settings

ENHANCER = "thumbwheel.enhancer.v1.EnhancerService"
GENERATOR = "thumbwheel.generator.v1.GeneratorService"
# Longer than any test, so only the client's deadline applies.
HOP_SECONDS = 600.0


class ReplicaSettings(ServiceSettings):
    """Settings of every service, and the address of the next replica."""

    model_config = SettingsConfigDict(env_prefix="TW_REPLICA_", frozen=True, extra="forbid")

    next_target: str = Field("127.0.0.1:1", description="where `hop` goes")
    servers: int = Field(1_000_000, description="calls that work at once; the others wait in line")


class Replica(
    enhancer_pb2_grpc.EnhancerServiceServicer, generator_pb2_grpc.GeneratorServiceServicer
):
    """Executes the commands in the text of a call.

    `hop …` calls the next replica. `away` and `full S` fail. `work S` occupies one of the servers
    for S seconds. `left` returns the deadline. `silent` never answers. `count W` returns the number
    of calls with the first word W. Generate streams `count bytes seconds`.
    """

    def __init__(self, settings: ReplicaSettings, enhancer: Any, generator: Any) -> None:
        self._servers = asyncio.Semaphore(settings.servers)
        self._enhancer, self._generator = enhancer, generator
        self.calls: Counter[str] = Counter()

    async def Enhance(
        self, request: enhancer_pb2.EnhanceRequest, context: Any
    ) -> enhancer_pb2.EnhanceResponse:
        word, _, rest = request.text.partition(" ")
        self.calls[word] += 1
        answer = str(os.getpid())
        match word:
            case "hop":
                answer = (
                    await self._next(self._enhancer.Enhance, enhancer_pb2.EnhanceRequest(text=rest))
                ).text
            case "away":
                raise UnavailableError("unavailable on request", reason="AWAY")
            case "full":
                raise ResourceExhaustedError("full on request", retry_seconds=float(rest))
            case "work":
                async with self._servers:
                    await asyncio.sleep(float(rest))
            case "left":
                answer = f"{current_call().remaining_seconds(HOP_SECONDS):.3f}"
            case "count":
                answer = str(self.calls[rest])
            case "silent":
                await asyncio.sleep(HOP_SECONDS)
        return enhancer_pb2.EnhanceResponse(text=answer)

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateEvent]:
        word, _, rest = request.user_key.partition(" ")
        self.calls[f"stream-{word}"] += 1
        try:
            if word == "hop":
                further = generator_pb2.GenerateRequest(user_key=rest)
                async for event in call_stream(
                    "next", self._generator.Generate, further, within_seconds=HOP_SECONDS
                ):
                    yield event
            elif word == "silent":
                await asyncio.sleep(HOP_SECONDS)
            else:
                length, seconds = rest.split()
                for _ in range(int(word)):
                    yield generator_pb2.GenerateEvent(text_delta="x" * int(length))
                    await asyncio.sleep(float(seconds))
        finally:
            self.calls["ended"] += 1

    @staticmethod
    async def _next(method: Any, request: Any) -> Any:
        return await call_unary("next", method, request, within_seconds=HOP_SECONDS)


@asynccontextmanager
async def wiring(settings: ReplicaSettings) -> AsyncIterator[Sequence[Registration]]:
    """Construct the replica and a channel to the next one."""
    protos = (enhancer_pb2.DESCRIPTOR, generator_pb2.DESCRIPTOR)
    async with open_channel(settings.next_target, *protos) as channel:
        replica = Replica(
            settings,
            enhancer_pb2_grpc.EnhancerServiceStub(channel),
            generator_pb2_grpc.GeneratorServiceStub(channel),
        )
        yield [
            Registration(
                ENHANCER, enhancer_pb2_grpc.add_EnhancerServiceServicer_to_server, replica
            ),
            Registration(
                GENERATOR, generator_pb2_grpc.add_GeneratorServiceServicer_to_server, replica
            ),
        ]


@dataclass
class InProcessReplica:
    """A replica inside the test process, with a fast start and readable counters."""

    port: int
    calls: Counter[str]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


@asynccontextmanager
async def in_process_replica(**settings: Any) -> AsyncIterator[InProcessReplica]:
    """Serve a replica during the block."""
    given = ReplicaSettings.model_validate(
        {"port": 0, "lame_duck_seconds": 0, "drain_seconds": 1} | settings
    )
    async with wiring(given) as registrations, serving(given, registrations) as port:
        yield InProcessReplica(port, registrations[0].servicer.calls)


if __name__ == "__main__":
    run_service("replica", load_settings(ReplicaSettings), wiring)
