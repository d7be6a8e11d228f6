"""The session service as the chat path uses it: begin turns and store answers."""

from dataclasses import dataclass
from typing import Protocol

from services.contracts.chat import FinishReason, Prompt, Sample, Task, Usage
from services.contracts.wire import Context
from services.gateway.answering.generation import Selected
from services.gateway.turns.request import TurnRequest


@dataclass(frozen=True)
class StartedTurn:
    """A turn that the session service has begun.

    `context` holds the messages for the model, as the session service returned them. The user's
    message is the last.
    """

    conversation_id: str
    user_message_id: str
    message_id: str
    context: Context
    replayed: bool


@dataclass(frozen=True)
class Answer:
    """One answer with the data needed for training.

    `sample` is present only if readers saw the text exactly as the model wrote it.
    """

    message_id: str
    policy_version: str = ""
    text: str = ""
    finish_reason: FinishReason = FinishReason.FAILED
    selected: Selected | None = None
    usage: Usage | None = None
    guard_category: str = ""
    sample: Sample | None = None

    @property
    def model_version(self) -> str:
        """Version of the model, or an empty string if no model answered."""
        return self.selected.model_version if self.selected else ""

    @property
    def arm(self) -> str:
        """Arm of the experiment, or an empty string if no model answered."""
        return self.selected.arm if self.selected else ""


@dataclass(frozen=True)
class StoredAnswer:
    """A finished answer of an earlier turn."""

    text: str
    finish_reason: FinishReason
    model_version: str
    arm: str
    task: Task


class Sessions(Protocol):
    """Client of the session service. All methods act for the caller of the current call."""

    async def begin_turn(self, request: TurnRequest, prompt: Prompt) -> StartedTurn:
        """Store the user's message and an open answer. Idempotent by request_id.

        Raises:
            ServiceError: The session service failed.
        """

    async def finish_turn(self, answer: Answer) -> None:
        """Store an answer. Idempotent.

        Raises:
            ServiceError: The session service failed.
        """

    async def stored_prompt(self, message_id: str) -> Prompt:
        """Return a user's message, named by its own id or by the id of its answer.

        Raises:
            NotFoundError: The message is unknown.
        """

    async def finished_answer(self, message_id: str) -> StoredAnswer | None:
        """Return the finished answer, or None while the answer is open.

        Raises:
            ServiceError: The session service failed.
        """
