"""Command line of the guardrail: `python -m services.guardrail`."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from thumbwheel.guardrail.v1 import guardrail_pb2_grpc

from services.chassis.server import Registration, run_service
from services.chassis.settings import load_settings
from services.guardrail.access import CALLERS
from services.guardrail.cascade import Unsure, read_cascade
from services.guardrail.detection.spans import personal_spans
from services.guardrail.encoder.parts import Part
from services.guardrail.guard import Guard
from services.guardrail.servicer import NAME, GuardrailServicer
from services.guardrail.settings import GuardrailSettings
from services.guardrail.verdict import VERDICTS, Stage, Verdict

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
    servicer = GuardrailServicer(Guard(cascade, settings.phone_region, observe))
    yield [Registration(NAME, guardrail_pb2_grpc.add_GuardrailServiceServicer_to_server, servicer)]


if __name__ == "__main__":
    run_service("guardrail", load_settings(GuardrailSettings), wiring, CALLERS)
