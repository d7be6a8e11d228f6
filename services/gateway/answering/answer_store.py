"""Stores answers and retries for a limited time, for example while the session service restarts."""

import asyncio
import logging
import time
from dataclasses import replace

from services.chassis.errors import ServiceError, UnavailableError
from services.chassis.identity import bind_call, current_call
from services.chassis.telemetry import fields
from services.gateway.answering.prompts import UNAVAILABLE
from services.gateway.answering.sessions import Answer, Sessions
from services.gateway.metrics import ANSWERS_NOT_STORED, TURNS

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 2.0


class AnswerStore:
    """Stores finished answers in the session service."""

    def __init__(self, sessions: Sessions, finish_seconds: float) -> None:
        self._sessions, self._finish_seconds = sessions, finish_seconds

    async def store(self, answer: Answer) -> None:
        """Store the answer and retry while the session service is unavailable.

        Raises:
            UnavailableError: The session service did not return in time.
            ServiceError: The session service refused, for example because the conversation was
                deleted.
        """
        TURNS.labels(answer.finish_reason, answer.model_version, answer.arm).inc()
        # The turn may have ended because of its own deadline, so storing must not inherit that
        # deadline.
        bind_call(replace(current_call(), deadline=None))
        give_up_at = time.monotonic() + self._finish_seconds
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._sessions.finish_turn(answer)
            except UNAVAILABLE as error:
                if time.monotonic() + pause >= give_up_at:
                    _count(answer, error)
                    raise UnavailableError(
                        "the answer was shown but not stored: the session service is unavailable",
                        reason="ANSWER_NOT_STORED",
                    ) from error
            except ServiceError as error:
                _count(answer, error)
                raise
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _count(answer: Answer, error: ServiceError) -> None:
    ANSWERS_NOT_STORED.inc()
    log.error("answer not stored", extra=fields(message_id=answer.message_id, reason=error.reason))
