"""gRPC servicers: requests to the domain and back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from services.generator.answering.engine import Engine
from services.generator.answering.external_model import ExternalModel
from services.generator.rollout.canary import CanaryController, NoCanaries
from services.generator.rollout.current_rollout import CurrentRollout
from services.generator.rollout.reconcile import Reconciler, shares
from services.generator.rollout.traffic import TrafficCounter
from services.generator.wire import (
    canary_request_from,
    check_generate_request,
    external_model_proto,
    rollout_response,
    traffic_response,
    traffic_versions_from,
)

GENERATOR_NAME = "thumbwheel.generator.v1.GeneratorService"
ROLLOUT_NAME = "thumbwheel.generator.v1.RolloutService"


class GeneratorServicer(generator_pb2_grpc.GeneratorServiceServicer):
    """GeneratorService; errors are listed in proto/thumbwheel/generator/v1."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def Generate(
        self, request: generator_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[generator_pb2.GenerateEvent]:
        check_generate_request(request)
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                yield event


class RolloutServicer(generator_pb2_grpc.RolloutServiceServicer):
    """RolloutService; errors are listed in proto/thumbwheel/generator/v1."""

    def __init__(
        self,
        current: CurrentRollout,
        reconciler: Reconciler,
        canary_controller: CanaryController | NoCanaries,
        traffic: TrafficCounter,
        external: Sequence[ExternalModel],
    ) -> None:
        self._current = current
        self._reconciler = reconciler
        self._canary_controller = canary_controller
        self._traffic = traffic
        self._external = external

    async def GetRollout(
        self, request: generator_pb2.GetRolloutRequest, context: Any
    ) -> generator_pb2.GetRolloutResponse:
        # Read from the store, since another replica may have started a canary.
        rollout = await self._current.read_latest()
        share_by_version = shares(rollout)
        statuses = {version: self._reconciler.status(version) for version in share_by_version}
        response = rollout_response(
            rollout, share_by_version, statuses, self._current.stale_since_us
        )
        response.external_models.extend(external_model_proto(model) for model in self._external)
        return response

    async def StartCanary(
        self, request: generator_pb2.StartCanaryRequest, context: Any
    ) -> generator_pb2.StartCanaryResponse:
        await self._canary_controller.start(canary_request_from(request))
        return generator_pb2.StartCanaryResponse()

    async def RenewCanary(
        self, request: generator_pb2.RenewCanaryRequest, context: Any
    ) -> generator_pb2.RenewCanaryResponse:
        await self._canary_controller.renew(request.version, request.lease.ToNanoseconds() / 1e9)
        return generator_pb2.RenewCanaryResponse()

    async def PromoteCanary(
        self, request: generator_pb2.PromoteCanaryRequest, context: Any
    ) -> generator_pb2.PromoteCanaryResponse:
        await self._canary_controller.promote(request.version, request.reason)
        return generator_pb2.PromoteCanaryResponse()

    async def RollBackCanary(
        self, request: generator_pb2.RollBackCanaryRequest, context: Any
    ) -> generator_pb2.RollBackCanaryResponse:
        await self._canary_controller.roll_back(request.version, request.reason)
        return generator_pb2.RollBackCanaryResponse()

    async def GetVersionTraffic(
        self, request: generator_pb2.GetVersionTrafficRequest, context: Any
    ) -> generator_pb2.GetVersionTrafficResponse:
        return traffic_response(await self._traffic.read(traffic_versions_from(request)))
