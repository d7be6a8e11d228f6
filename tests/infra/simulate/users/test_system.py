"""Versions served for the comparison of the demonstration."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from infra.run.embedded.layout import Layout
from infra.simulate.users.system import System


class FakeRollout(generator_pb2_grpc.RolloutServiceServicer):
    """Rollout with a watched promotion; records its changes."""

    def __init__(self, previous: str) -> None:
        self._previous = previous
        self.calls: list[str] = []

    async def GetRollout(self, request: object, context: object) -> object:
        reply = generator_pb2.GetRolloutResponse()
        if self._previous:
            reply.watch.previous.version = self._previous
        return reply

    async def StartCanary(self, request: generator_pb2.StartCanaryRequest, _: object) -> object:
        self.calls.append(f"start {request.version}")
        return generator_pb2.StartCanaryResponse()

    async def RollBackCanary(
        self, request: generator_pb2.RollBackCanaryRequest, _: object
    ) -> object:
        self.calls.append(f"roll back {request.version}")
        return generator_pb2.RollBackCanaryResponse()


@asynccontextmanager
async def serving(rollout: FakeRollout, state: Path) -> AsyncIterator[System]:
    server = grpc.aio.server()
    generator_pb2_grpc.add_RolloutServiceServicer_to_server(rollout, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield System(Layout(state, {"generator": port}))
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("previous", "calls"),
    [("nano-0", []), ("", ["start nano-0", "roll back nano-0"])],
    ids=["watched", "retired"],
)
async def test_comparison_does_not_end_a_watch(
    tmp_path: Path, previous: str, calls: list[str]
) -> None:
    rollout = FakeRollout(previous)
    async with serving(rollout, tmp_path) as system, system.also_serving("nano-0"):
        pass
    assert rollout.calls == calls
