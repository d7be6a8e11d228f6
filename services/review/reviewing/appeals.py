"""Appeals: items that users add, to have a block of the guard judged by reviewers."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ResourceExhaustedError,
)
from services.contracts.chat import FinishReason, Role, Task
from services.contracts.limits import MAX_APPEAL_REASON_CHARACTERS, check_text, check_uuid
from services.contracts.wire import FINISH_REASONS, TASKS, now_us
from services.review.reviewing.item import (
    AppealedBlock,
    ContextMessage,
    DrawnAnswer,
    DrawRule,
    Item,
    Reviewer,
)
from services.review.reviewing.items import ReviewedItem

MOST_LISTED = 100
# uuid5(NAMESPACE_URL, "urn:thumbwheel:appeals"). An appeal is known by the message and its tenant.
APPEAL_NAMESPACE = uuid.UUID("e87736c9-bf6c-5e01-803e-45f79713fa1b")

APPEALS = Counter("thumbwheel_review_appeals_total", "Stored appeals against blocks of the guard.")


class TooManyAppealsError(ResourceExhaustedError):
    """The user or the tenant has made as many appeals as allowed in 24 hours."""

    is_load = False
    reason = "TOO_MANY_APPEALS"


@dataclass(frozen=True)
class AppealLimits:
    """Most appeals of a user and of a tenant in 24 hours."""

    user: int
    tenant: int

    def check(self, of_user: int, of_tenant: int) -> None:
        """Check the numbers of appeals in 24 hours before a new appeal.

        Raises:
            TooManyAppealsError: a limit is reached; the error names the limit.
        """
        for used, most, holder in (
            (of_user, self.user, "a user"),
            (of_tenant, self.tenant, "the tenant"),
        ):
            if used >= most:
                limit = f"{most:,} appeals of {holder} in 24 hours"
                raise TooManyAppealsError(f"the limit is {limit}", limit=limit)


class Answers(Protocol):
    """Messages of the current caller."""

    async def get(self, message_id: str) -> session_pb2.GetMessageResponse:
        """Return a message with the verdict that blocked it.

        Raises:
            NotFoundError: the message is unknown or belongs to another user.
        """


class AppealStore(Protocol):
    """Appeals in the database; all methods raise UnavailableError without it."""

    async def appeal(self, item_id: str) -> ReviewedItem | None:
        """Return an appeal by the id of its item."""

    async def add_appeal(self, item: Item, create_us: int, limits: AppealLimits) -> None:
        """Store an appeal unless it exists, or the message is from before an erasure.

        Raises:
            TooManyAppealsError: a limit is reached.
        """

    async def appeals_of(self, principal: str, most: int) -> Sequence[ReviewedItem]:
        """Return the newest appeals of a user."""


class Appeals:
    """Domain logic of AppealService."""

    def __init__(self, store: AppealStore, answers: Answers, limits: AppealLimits) -> None:
        self._store, self._answers, self._limits = store, answers, limits

    async def submit(self, caller: Reviewer, message_id: str, reason: str) -> ReviewedItem:
        """Store an appeal of the caller; the same appeal can be sent again.

        Raises:
            InvalidArgumentError: the id is no UUID, or the reason is too long.
            NotFoundError: the message is unknown, belongs to another user, or was erased.
            FailedPreconditionError: the guard did not block the message.
            AlreadyExistsError: the appeal was made with another reason.
            TooManyAppealsError: a limit is reached.
            UnavailableError: nothing was stored.
        """
        check_uuid(message_id, "message_id")
        check_text(reason, "reason", MAX_APPEAL_REASON_CHARACTERS)
        item = await self._item(caller, message_id, reason)
        stored = await self._store.appeal(item.item_id)
        if stored is None:
            await self._store.add_appeal(item, now_us(), self._limits)
            stored = await self._store.appeal(item.item_id)
            APPEALS.inc()
        if stored is None:
            raise NotFoundError("no such message", field="message_id")
        if stored.item.appeal and stored.item.appeal.reason != reason:
            raise AlreadyExistsError(
                "the message has an appeal with another reason",
                reason="APPEAL_EXISTS",
                field="reason",
                limit="one appeal for each message",
            )
        return stored

    async def of_caller(self, caller: Reviewer) -> Sequence[ReviewedItem]:
        """Return the newest appeals of the caller.

        Raises:
            UnavailableError: the database does not answer.
        """
        return await self._store.appeals_of(caller.principal, MOST_LISTED)

    async def _item(self, caller: Reviewer, message_id: str, reason: str) -> Item:
        found = await self._answers.get(message_id)
        answer, verdict = found.message, found.block
        finish = FINISH_REASONS.get(answer.finish_reason, FinishReason.OPEN)
        if not finish.is_blocked:
            raise FailedPreconditionError(
                "the guard did not block this message",
                reason="NOT_BLOCKED",
                field="message_id",
                limit="an answer that the guard blocked",
            )
        question: chat_pb2.Message = (await self._answers.get(answer.parent_id)).message
        return Item(
            item_id=str(uuid.uuid5(APPEAL_NAMESPACE, f"{message_id}/{caller.tenant}")),
            tenant=caller.tenant,
            principal=caller.principal,
            conversation_id=answer.conversation_id,
            message_id=message_id,
            arm=answer.arm,
            rule=DrawRule.APPEAL,
            task=TASKS.get(answer.task, Task.UNSPECIFIED),
            context=(ContextMessage(Role.USER, question.original_text or question.text),),
            answers=(DrawnAnswer(answer.text, answer.model_version, message_id),),
            appeal=AppealedBlock(
                is_answer=finish is FinishReason.OUTPUT_BLOCKED,
                category=verdict.category,
                score=verdict.score,
                policy_version=verdict.policy_version,
                reason=reason,
            ),
        )
