"""Command line of the guardrail: `python -m services.guardrail`."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from thumbwheel.guardrail.v1 import guardrail_pb2_grpc

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.chassis.telemetry import fields
from services.guardrail.access import CALLERS
from services.guardrail.cascade import Unsure, read_cascade
from services.guardrail.detection.spans import personal_spans
from services.guardrail.encoder.parts import Part
from services.guardrail.guard import Guard
from services.guardrail.operator import OperatorStage, open_session
from services.guardrail.servicer import NAME, GuardrailServicer
from services.guardrail.settings import GuardrailSettings
from services.guardrail.verdict import VERDICTS, Stage, Verdict

log = logging.getLogger(__name__)

WARM_UP = "call +1 415 555 2671 or write to nobody"


@asynccontextmanager
async def wiring(settings: GuardrailSettings) -> AsyncIterator[Sequence[Registration]]:
    """Load the classifier and create guard and servicer."""

    def observe(stage: Stage, verdict: Verdict) -> None:
        VERDICTS.labels(stage, verdict.action, verdict.category or "none").inc()

    cascade = read_cascade(settings.weights_directory, settings.encoder_directory)
    # The first text takes 50 ms longer, because NumPy and phonenumbers build tables; do so before
    # the first call.
    cascade.judge([WARM_UP])
    cascade.second_stage(Unsure((Part(WARM_UP, 0.0),)))
    list(personal_spans(WARM_UP, settings.phone_region))
    guard = Guard(cascade, settings.phone_region, observe)
    model = await asyncio.to_thread(settings.operator)
    async with AsyncExitStack() as stack:
        stage = None
        if model:
            session = await stack.enter_async_context(open_session(model.connections))
            stage = OperatorStage(session, model)
            # By the version in verdicts, their model can be found.
            named = fields(model=model.model, format=model.format, version=model.version)
            log.info("operator guard model used", extra=named)
        servicer = GuardrailServicer(guard, stage)
        add = guardrail_pb2_grpc.add_GuardrailServiceServicer_to_server
        yield [Registration(NAME, add, servicer)]


if __name__ == "__main__":
    run_service("guardrail", load_settings(GuardrailSettings), wiring, CALLERS)
