"""The prompt of a turn, as typed and as enhanced. Regeneration uses the stored prompt."""

from typing import Protocol

from services.chassis.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from services.contracts.chat import Prompt
from services.gateway.answering.sessions import Sessions
from services.gateway.metrics import ENHANCER_SKIPPED
from services.gateway.turns.request import Regenerate, TurnRequest

# Errors of a service that is temporarily unavailable. The same call may succeed later.
UNAVAILABLE = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)


class Enhancer(Protocol):
    """Client of the enhancer service."""

    async def enhance(self, text: str) -> Prompt:
        """Return the text with corrections.

        Raises:
            ServiceError: The enhancer failed.
        """


class Prompts:
    """Builds the prompt of a turn."""

    def __init__(self, enhancer: Enhancer, sessions: Sessions) -> None:
        self._enhancer, self._sessions = enhancer, sessions

    async def read(self, request: TurnRequest) -> Prompt:
        """Return the prompt of a request.

        Raises:
            NotFoundError: The message to regenerate is unknown.
        """
        match request.action:
            case Regenerate(message_id):
                return await self._sessions.stored_prompt(message_id)
            case Prompt(text) as typed:
                if request.skip_enhancer:
                    return typed
                try:
                    return await self._enhancer.enhance(text)
                except UNAVAILABLE:
                    # The enhancer is optional, unlike the guard, so the typed text is used. A
                    # counter makes the outage visible.
                    ENHANCER_SKIPPED.inc()
                    return typed
