"""Feedback on answers: checks permission, resolves the model version, builds the event.

The reply waits for the acknowledgement of the feedback service, so confirmed feedback is on disk.
"""

import time
import uuid
from dataclasses import dataclass
from typing import Literal, Protocol

from thumbwheel.feedback.v1 import events_pb2, feedback_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2

from services.chassis.errors import FailedPreconditionError, InvalidArgumentError
from services.chassis.identity import Caller
from services.contracts.chat import Arm, Role, Task
from services.contracts.feedback import SignalKind, Subject
from services.contracts.identifiers import principal_of
from services.contracts.limits import (
    MAX_COMMENT_CHARACTERS,
    MAX_CORRECTION_CHARACTERS,
    MAX_REASON_CHARACTERS,
    MAX_REASONS,
    MAX_REQUEST_ID_CHARACTERS,
    field_error,
)
from services.contracts.wire import ACTIONS
from services.gateway.metrics import GUARD_VERDICTS, RATED_ANSWERS, THUMBS
from services.gateway.quotas.quota import Limit
from services.gateway.quotas.quotas import Quotas
from services.gateway.turns.request import check_uuid

# A separate namespace, to exclude collisions with other UUIDv5 of Thumbwheel.
EVENT_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "thumbwheel.feedback.v1.FeedbackEvent")


# Names of lengths of answers, with the characters that are no longer of this length.
LENGTHS = {"short": 200, "medium": 1_000}


@dataclass(frozen=True)
class RatedMessage:
    """The message under feedback; `question_enhanced` is None from an earlier session service."""

    conversation_id: str
    role: Role
    model_version: str
    arm: str
    finished: bool
    task: Task = Task.UNSPECIFIED
    characters: int = 0
    question_enhanced: bool | None = None


class RatedMessages(Protocol):
    """Finds messages of the current caller."""

    async def rated_message(self, message_id: str) -> RatedMessage:
        """Return the message.

        Raises:
            NotFoundError: The message is unknown or belongs to another user.
        """


class FeedbackLog(Protocol):
    """Client of the feedback log."""

    async def record(self, event: events_pb2.FeedbackEvent) -> feedback_pb2.Durability.ValueType:
        """Store an event, idempotent by event_id, and return its durability.

        Raises:
            AlreadyExistsError: The event_id was used with other content. Nothing was stored.
            UnavailableError: The feedback service is unavailable. Nothing was stored.
        """


class WrittenTextGuard(Protocol):
    """Checks texts that users wrote, apart from the answers of models."""

    async def check_written(self, text: str) -> guardrail_pb2.CheckOutputResponse:
        """Return the verdict on a text as an answer and as the request that leads to it.

        Raises:
            ResourceExhaustedError: Too many texts of this user wait.
            ServiceError: The guard failed.
        """


class Feedback:
    """Accepts feedback of users."""

    def __init__(
        self,
        messages: RatedMessages,
        log: FeedbackLog,
        guard: WrittenTextGuard,
        quotas: Quotas,
        principal_key: str,
    ) -> None:
        self._messages, self._log, self._guard = messages, log, guard
        self._quotas, self._principal_key = quotas, principal_key

    async def submit(
        self, caller: Caller, request: feedback_pb2.SubmitFeedbackRequest
    ) -> feedback_pb2.SubmitFeedbackResponse:
        """Store feedback of a user.

        Raises:
            InvalidArgumentError: A limit is exceeded, the message is not an answer, or the guard
                rejects the correction.
            NotFoundError: The message is unknown or belongs to another user.
            FailedPreconditionError: The answer is not finished, so its version is not final; the
                answer belongs to a battle; or a signal of a user who does not allow training.
            AlreadyExistsError: The request_id was used with other content.
            QuotaError: The user or the tenant sent too many feedback events.
            ResourceExhaustedError: Too many corrections of the user wait for the guard.
            UnavailableError: The guard, the feedback service or the quota store is unavailable.
                Nothing was stored.
        """
        kind = check_submission(request)
        # Before all calls of other services, which cost more than the count.
        await self._quotas.count(caller, Limit.FEEDBACK)
        message = await self._messages.rated_message(request.message_id)
        if message.role is not Role.ASSISTANT:
            raise field_error("message_id", "an answer of the assistant, not a message of the user")
        if not message.finished:
            raise FailedPreconditionError("the answer is still being written", field="message_id")
        if message.arm == Arm.BATTLE:
            raise FailedPreconditionError(
                "an answer of a battle takes a vote and no other feedback",
                field="message_id",
                reason="ANSWER_OF_A_BATTLE",
                limit="an answer outside of battles",
            )
        if kind == "correction":
            await check_written_text(
                self._guard, request.correction.text, "correction.text", "correction"
            )
        # The id is derived from the request_id, which makes retries idempotent.
        event = events_pb2.FeedbackEvent(
            event_id=str(uuid.uuid5(EVENT_NAMESPACE, f"{caller.key}/{request.request_id}")),
            tenant=caller.tenant,
            principal=principal_of(self._principal_key, caller),
            conversation_id=message.conversation_id,
            message_id=request.message_id,
            model_version=message.model_version,
            arm=message.arm,
        )
        event.accept_time.FromNanoseconds(time.time_ns())
        getattr(event, kind).CopyFrom(getattr(request, kind))
        durability = await self._log.record(event)
        if kind == "thumb":
            value = "up" if request.thumb.up else "down"
            THUMBS.labels(message.model_version, message.arm, value).inc()
            limits = LENGTHS.items()
            length = next((name for name, limit in limits if message.characters < limit), "long")
            traits = [f"task_{message.task}", f"length_{length}"]
            if message.question_enhanced is not None:
                traits.append(
                    "question_enhanced" if message.question_enhanced else "question_as_typed"
                )
            for trait in traits:
                RATED_ANSWERS.labels(message.model_version, trait, value).inc()
        return feedback_pb2.SubmitFeedbackResponse(event_id=event.event_id, durability=durability)


async def check_written_text(guard: WrittenTextGuard, text: str, field: str, kind: str) -> None:
    """Check a text that a model will learn to answer with, or that other users read.

    The guard judges the text as an answer, and as the request that leads to it, since its
    classifier reads requests only.

    Args:
        guard: judge of the text.
        text: written by a user, not empty.
        field: name of the text in the error.
        kind: "correction" or "review", in the reason of the error and in the metric.

    Raises:
        InvalidArgumentError: The guard rejects the text.
        ResourceExhaustedError: Too many texts of this user wait for the guard.
        UnavailableError: The guard is unavailable.
    """
    checked = await guard.check_written(text)
    if (action := checked.verdict.action) != guardrail_pb2.ACTION_ALLOW:
        category = checked.verdict.category
        GUARD_VERDICTS.labels(kind, ACTIONS[action], category).inc()
        raise InvalidArgumentError(
            f"the guard rejects the {kind}: {category}",
            field=field,
            reason=f"{kind.upper()}_REJECTED",
            limit="no harmful content, secrets or personal data",
        )


def check_submission(
    request: feedback_pb2.SubmitFeedbackRequest,
) -> Literal["thumb", "correction", "retraction", "signal"]:
    """Check all limits of a submission and return the name of its value.

    Raises:
        InvalidArgumentError: A field is outside its limit. The error names both.
    """
    kind = request.WhichOneof("value")
    if kind is None:
        raise field_error("value", "one of thumb, correction, retraction, signal")
    check_uuid(request.message_id, "message_id")
    if not 1 <= len(request.request_id) <= MAX_REQUEST_ID_CHARACTERS:
        raise field_error("request_id", f"1 to {MAX_REQUEST_ID_CHARACTERS} characters")
    match kind:
        case "thumb":
            reasons, comment = request.thumb.reasons, request.thumb.comment
            if len(reasons) > MAX_REASONS or any(
                not 1 <= len(reason) <= MAX_REASON_CHARACTERS for reason in reasons
            ):
                raise field_error(
                    "thumb.reasons",
                    f"at most {MAX_REASONS} of 1 to {MAX_REASON_CHARACTERS} characters",
                )
            if len(comment) > MAX_COMMENT_CHARACTERS:
                raise field_error("thumb.comment", f"at most {MAX_COMMENT_CHARACTERS:,} characters")
        case "correction":
            if not 1 <= len(request.correction.text) <= MAX_CORRECTION_CHARACTERS:
                raise field_error(
                    "correction.text", f"1 to {MAX_CORRECTION_CHARACTERS:,} characters"
                )
        case "retraction":
            if request.retraction.kind not in list(Subject):
                raise field_error("retraction.kind", " or ".join(Subject))
        case "signal":
            if request.signal.kind not in list(SignalKind):
                raise field_error("signal.kind", " or ".join(SignalKind))
    return kind
