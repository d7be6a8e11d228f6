"""Session as the chat path sees it: turns that begin, answers that are stored."""

from dataclasses import dataclass
from typing import Protocol

from services.gateway.events import FinishReason, Prompt, Usage
from services.gateway.generation import Sample, Selected
from services.gateway.request import Message, Task, TurnRequest


@dataclass(frozen=True)
class Begun:
    """A turn that session knows; `context` is what the model is given, the user's message last."""

    conversation_id: str
    user_message_id: str
    message_id: str
    context: tuple[Message, ...]
    replayed: bool


@dataclass(frozen=True)
class Answer:
    """One answer with all that training needs to know of it. `sample` is of an answer that was
    shown as the model wrote it.
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
        """Version that wrote it; empty if none did."""
        return self.selected.model_version if self.selected else ""

    @property
    def arm(self) -> str:
        """Its arm; empty if no version wrote it."""
        return self.selected.arm if self.selected else ""


@dataclass(frozen=True)
class StoredAnswer:
    """An answer that was finished before."""

    text: str
    finish_reason: FinishReason
    model_version: str
    arm: str
    task: Task


class Sessions(Protocol):
    """Keeps conversations; all under the caller of the running call."""

    async def begin_turn(self, request: TurnRequest, prompt: Prompt) -> Begun:
        """Store the user's message and an open answer; idempotent by request_id. Raises:
        ServiceError.
        """

    async def finish_turn(self, answer: Answer) -> None:
        """Store an answer; idempotent. Raises: ServiceError."""

    async def stored_prompt(self, message_id: str) -> Prompt:
        """The user's message, or the one that this answer belongs to. Raises: NotFoundError."""

    async def finished_answer(self, message_id: str) -> StoredAnswer | None:
        """The answer, or None while it is open. Raises: ServiceError."""
