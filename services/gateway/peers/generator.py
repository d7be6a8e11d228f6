"""Client of the generator service: answers, and the served versions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2, generator_pb2_grpc

from services.chassis.channel import call_stream, call_unary
from services.chassis.errors import NotFoundError, UnavailableError
from services.chassis.identity import require_caller
from services.contracts.chat import FinishReason
from services.contracts.identifiers import EXTERNAL_PREFIX
from services.contracts.wire import FINISH_REASONS, TASK_NUMBERS, Context, overrides_message
from services.gateway.turns.request import ROLLOUT_MODEL, TurnRequest

PEER = "generator"
# The rollout is small and held in the generator's memory, so the timeout is short.
ROLLOUT_SECONDS = 5.0
LOST = "GENERATOR_UNAVAILABLE"  # connection lost; errors of the generator itself have other reasons


class GeneratorPeer:
    """Generates answers. The turn's own deadline limits the stream."""

    def __init__(
        self,
        stub: generator_pb2_grpc.GeneratorServiceStub,
        rollout: generator_pb2_grpc.RolloutServiceStub,
        turn_seconds: float,
    ) -> None:
        self._stub, self._rollout, self._turn_seconds = stub, rollout, turn_seconds

    async def require_version(self, version: str) -> None:
        """Check that a version is served. An empty version leaves the choice to the rollout.

        Called before anything is stored, so a wrong name leaves no data behind.

        Raises:
            NotFoundError: The version is not served.
        """
        if version and version not in (served := await self.served_versions()):
            raise NotFoundError(
                "the model is not served",
                reason="MODEL_NOT_FOUND",
                field="model",
                limit=", ".join((ROLLOUT_MODEL, *served)),
            )

    async def served_versions(self) -> tuple[str, ...]:
        """Return the versions that a request may name, see `versions_of`."""
        return versions_of(await self.rollout())

    async def sole_version(self) -> str:
        served = _rollout_versions(await self.rollout())
        return served[0] if len(served) == 1 else ""

    async def rollout(self) -> generator_pb2.GetRolloutResponse:
        """Return the current rollout."""
        request = generator_pb2.GetRolloutRequest()
        return await call_unary(
            PEER, self._rollout.GetRollout, request, within_seconds=ROLLOUT_SECONDS
        )

    async def generate(
        self, request: TurnRequest, context: Context
    ) -> AsyncGenerator[generator_pb2.GenerateEvent, None]:
        """Yield one `selected` event, then `text_delta` events, then `finished`.

        Closing the generator stops the model server.

        Raises:
            ServiceError: The generator service failed.
        """
        message = generator_pb2.GenerateRequest(
            user_key=require_caller().key,
            messages=[chat_pb2.HistoryMessage(role=m.role, text=m.text) for m in context],
            task=TASK_NUMBERS[request.task],
            sampling=overrides_message(request.sampling),
            pinned_version=request.pinned_version,
        )
        began = False
        try:
            async with aclosing(self._answer(message)) as events:
                async for event in events:
                    began = True
                    yield event
        except UnavailableError as error:
            if began or error.reason != LOST:
                raise
            # A terminating server answers new calls with CANCELLED, which gRPC does not retry. Seen
            # in 1 of 20,000 calls during a rolling update.
            async with aclosing(self._answer(message)) as events:
                async for event in events:
                    yield event

    async def _answer(
        self, message: generator_pb2.GenerateRequest
    ) -> AsyncGenerator[generator_pb2.GenerateEvent, None]:
        stream = call_stream(PEER, self._stub.Generate, message, within_seconds=self._turn_seconds)
        async with aclosing(stream) as events:
            async for event in events:
                if event.WhichOneof("event") is None:
                    raise UnavailableError("the generator sent an unknown event", reason=LOST)
                if event.HasField("finished"):
                    # An unknown reason of a newer generator counts as a regular end.
                    reason = FINISH_REASONS.get(event.finished.finish_reason, FinishReason.OPEN)
                    if reason is FinishReason.OPEN:
                        event.finished.finish_reason = chat_pb2.FINISH_REASON_STOP
                yield event


def versions_of(rollout: generator_pb2.GetRolloutResponse) -> tuple[str, ...]:
    """Return the versions that a request may name.

    These are the stable version, the candidate and the version before, if they serve. Where an
    external model is stable, a request may also name the others; elsewhere these answer battles
    only.
    """
    named = _rollout_versions(rollout)
    if not rollout.stable.version.startswith(EXTERNAL_PREFIX):
        return named
    return tuple(dict.fromkeys((*named, *(model.name for model in rollout.external_models))))


def _rollout_versions(rollout: generator_pb2.GetRolloutResponse) -> tuple[str, ...]:
    others = (rollout.candidate.version, rollout.watch.previous.version)
    return tuple(version for version in (rollout.stable.version, *others) if version)
