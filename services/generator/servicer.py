"""GeneratorService and RolloutService: requests to the domain and back."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from services.generator.canary import Canaries
from services.generator.engine import Engine
from services.generator.reconcile import Reconciler, shares
from services.generator.traffic import Traffic
from services.generator.wire import (
    canary_request_from,
    generate_event,
    generate_request_from,
    rollout_response,
)

GENERATOR_NAME = "thumbwheel.generator.v1.GeneratorService"
ROLLOUT_NAME = "thumbwheel.generator.v1.RolloutService"


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """Errors are those of the domain; see proto/thumbwheel/generator/v1."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateEvent]:
        async with aclosing(self._engine.generate(generate_request_from(request))) as events:
            async for event in events:
                yield generate_event(event)


class RolloutServicer(generator_pb2_grpc.RolloutServiceServicer):
    """Errors are those of the domain; see proto/thumbwheel/generator/v1."""

    def __init__(self, traffic: Traffic, reconciler: Reconciler, canaries: Canaries) -> None:
        self._traffic = traffic
        self._reconciler = reconciler
        self._canaries = canaries

    async def GetRollout(
        self, request: generator_pb2.GetRolloutRequest, context: Any
    ) -> generator_pb2.GetRolloutResponse:
        rollout = (
            await self._traffic.look()
        )  # whoever started a canary at another replica must find it here
        share_by_version = shares(rollout)
        statuses = {version: self._reconciler.status(version) for version in share_by_version}
        return rollout_response(rollout, share_by_version, statuses, self._traffic.stale_since_us)

    async def StartCanary(
        self, request: generator_pb2.StartCanaryRequest, context: Any
    ) -> generator_pb2.StartCanaryResponse:
        await self._canaries.start(canary_request_from(request))
        return generator_pb2.StartCanaryResponse()

    async def RenewCanary(
        self, request: generator_pb2.RenewCanaryRequest, context: Any
    ) -> generator_pb2.RenewCanaryResponse:
        await self._canaries.renew(request.version, request.lease.ToNanoseconds() / 1e9)
        return generator_pb2.RenewCanaryResponse()

    async def PromoteCanary(
        self, request: generator_pb2.PromoteCanaryRequest, context: Any
    ) -> generator_pb2.PromoteCanaryResponse:
        await self._canaries.promote(request.version, request.reason)
        return generator_pb2.PromoteCanaryResponse()

    async def RollBackCanary(
        self, request: generator_pb2.RollBackCanaryRequest, context: Any
    ) -> generator_pb2.RollBackCanaryResponse:
        await self._canaries.roll_back(request.version, request.reason)
        return generator_pb2.RollBackCanaryResponse()
