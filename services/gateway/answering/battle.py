"""Answers of battles: their version is stored and never shown.

Everything that differs between models is hidden with the version: token counts and the texts of
errors. The rest of the chat path treats these answers like others.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from services.contracts.chat import Arm


def shown_version(
    answer: generator_pb2.Selected | chat_pb2.Message | session_pb2.FinishTurnRequest,
) -> str:
    """Return the version of an answer as users may see it: empty for an answer of a battle."""
    return "" if answer.arm == Arm.BATTLE else answer.model_version


async def battle_events(
    events: AsyncGenerator[generator_pb2.GenerateEvent, None],
) -> AsyncGenerator[generator_pb2.GenerateEvent, None]:
    """Yield the events of a generation for a battle, with the arm `battle`.

    Raises:
        UnavailableError: The model does not answer; the error names neither model nor cause.
        ResourceExhaustedError: The model has too many requests.
        ServiceError: As the events.
    """
    try:
        async with aclosing(events):
            async for event in events:
                if event.HasField("selected"):
                    event.selected.arm = Arm.BATTLE
                yield event
    except (NotFoundError, UnavailableError) as error:
        raise UnavailableError(
            "a model of this battle does not answer",
            reason="BATTLE_MODEL_UNAVAILABLE",
            retry_seconds=error.retry_seconds,
        ) from error
    except ResourceExhaustedError as error:
        raise ResourceExhaustedError(
            "a model of this battle has too many requests", retry_seconds=error.retry_seconds
        ) from error
