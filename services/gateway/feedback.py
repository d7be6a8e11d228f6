"""What a user says about an answer: may they, about which version was it, and the event that is
kept for ever.

The reply waits for the feedback service's ack: what a user was told is on disk.
"""

import time
import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from services.chassis.errors import FailedPreconditionError
from services.chassis.identity import Caller
from services.gateway.metrics import THUMBS
from services.gateway.principal import principal_of
from services.gateway.request import MAX_REQUEST_ID_CHARACTERS, Role, check_uuid, wrong

MAX_REASONS = 8
MAX_REASON_CHARACTERS = 64
MAX_COMMENT_CHARACTERS = 2_000
MAX_CORRECTION_CHARACTERS = 8_192
# A constant of its own, so that no other UUIDv5 of Thumbwheel can meet an event's id.
EVENT_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "thumbwheel.feedback.v1.FeedbackEvent")


class Subject(StrEnum):
    """What a retraction takes back."""

    THUMB = "thumb"
    CORRECTION = "correction"


class Durability(StrEnum):
    """Where an acknowledged event is."""

    SPOOL = "spool"


@dataclass(frozen=True)
class Thumb:
    """Good or bad, and why."""

    up: bool
    reasons: tuple[str, ...] = ()
    comment: str = ""


@dataclass(frozen=True)
class Correction:
    """What the answer should have been."""

    text: str


@dataclass(frozen=True)
class Retraction:
    """Takes back."""

    subject: str


@dataclass(frozen=True)
class Said:
    """What the user sends: never the transcript."""

    message_id: str
    value: Thumb | Correction | Retraction
    request_id: str


@dataclass(frozen=True)
class RatedMessage:
    """The message that something is said about."""

    conversation_id: str
    role: Role
    model_version: str
    arm: str
    finished: bool


@dataclass(frozen=True)
class FeedbackEvent:
    """What is kept. `accept_ns` is nanoseconds since 1970, UTC."""

    event_id: str
    tenant: str
    principal: str
    conversation_id: str
    message_id: str
    model_version: str
    arm: str
    accept_ns: int
    value: Thumb | Correction | Retraction


class RatedMessages(Protocol):
    """Finds messages of the running call's caller."""

    async def rated_message(self, message_id: str) -> RatedMessage:
        """Raises: NotFoundError, for another user's message too."""


class FeedbackLog(Protocol):
    """Keeps events."""

    async def record(self, event: FeedbackEvent) -> Durability:
        """Idempotent by event_id. Raises: AlreadyExistsError, UnavailableError; then nothing was
        stored.
        """


class Feedback:
    """Takes what users say."""

    def __init__(self, messages: RatedMessages, log: FeedbackLog, principal_key: str) -> None:
        self._messages, self._log, self._principal_key = messages, log, principal_key

    async def submit(self, caller: Caller, said: Said) -> tuple[str, Durability]:
        """The event's id and where it is durable.

        Raises:
            InvalidArgumentError: a limit, or the message is not an answer.
            NotFoundError: not the caller's message.
            FailedPreconditionError: the answer is still being written, so its version is not
                settled.
            AlreadyExistsError: request_id was used with something else.
            UnavailableError: nothing was stored.
        """
        check_said(said)
        message = await self._messages.rated_message(said.message_id)
        if message.role is not Role.ASSISTANT:
            raise wrong("message_id", "an answer of the assistant, not a message of the user")
        if not message.finished:
            raise FailedPreconditionError("the answer is still being written", field="message_id")
        event = self._event(caller, said, message)
        durability = await self._log.record(event)
        if isinstance(said.value, Thumb):
            THUMBS.labels(
                message.model_version, message.arm, "up" if said.value.up else "down"
            ).inc()
        return event.event_id, durability

    def _event(self, caller: Caller, said: Said, message: RatedMessage) -> FeedbackEvent:
        return FeedbackEvent(
            event_id=str(uuid.uuid5(EVENT_NAMESPACE, f"{caller.key}/{said.request_id}")),
            tenant=caller.tenant,
            principal=principal_of(self._principal_key, caller),
            conversation_id=message.conversation_id,
            message_id=said.message_id,
            model_version=message.model_version,
            arm=message.arm,
            accept_ns=time.time_ns(),
            value=said.value,
        )


def check_said(said: Said) -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    check_uuid(said.message_id, "message_id")
    if not 1 <= len(said.request_id) <= MAX_REQUEST_ID_CHARACTERS:
        raise wrong("request_id", f"1 to {MAX_REQUEST_ID_CHARACTERS} characters")
    match said.value:
        case Thumb(_, reasons, comment):
            if len(reasons) > MAX_REASONS or any(
                not 1 <= len(reason) <= MAX_REASON_CHARACTERS for reason in reasons
            ):
                raise wrong(
                    "thumb.reasons",
                    f"at most {MAX_REASONS} of 1 to {MAX_REASON_CHARACTERS} characters",
                )
            if len(comment) > MAX_COMMENT_CHARACTERS:
                raise wrong("thumb.comment", f"at most {MAX_COMMENT_CHARACTERS:,} characters")
        case Correction(text):
            if not 1 <= len(text) <= MAX_CORRECTION_CHARACTERS:
                raise wrong("correction.text", f"1 to {MAX_CORRECTION_CHARACTERS:,} characters")
        case Retraction(subject):
            if subject not in list(Subject):
                raise wrong("retraction.kind", " or ".join(Subject))
