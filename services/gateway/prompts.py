"""What the user wants answered, in both texts: enhanced now, or stored earlier if an answer is
wanted again.
"""

from typing import Protocol

from services.chassis.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from services.gateway.events import Prompt
from services.gateway.metrics import ENHANCER_SKIPPED
from services.gateway.request import Regenerate, TurnRequest, UserInput
from services.gateway.sessions import Sessions

# A service is away for now; the same call may succeed later.
AWAY = (UnavailableError, DeadlineExceededError, ResourceExhaustedError)


class Enhancer(Protocol):
    """Corrects what people type."""

    async def enhance(self, text: str) -> Prompt:
        """Raises: ServiceError."""


class Prompts:
    """Reads the prompt of a turn."""

    def __init__(self, enhancer: Enhancer, sessions: Sessions) -> None:
        self._enhancer, self._sessions = enhancer, sessions

    async def read(self, request: TurnRequest) -> Prompt:
        """The prompt. Raises: NotFoundError if an answer to an unknown message is wanted."""
        match request.action:
            case Regenerate(message_id):
                return await self._sessions.stored_prompt(message_id)
            case UserInput(text):
                return Prompt(text, text) if request.skip_enhancer else await self._enhance(text)

    async def _enhance(self, text: str) -> Prompt:
        try:
            return await self._enhancer.enhance(text)
        except AWAY:
            # An aid, not a guard: what was typed is as good a prompt as there ever was. Counted, so
            # that it is seen.
            ENHANCER_SKIPPED.inc()
            return Prompt(text, text)
