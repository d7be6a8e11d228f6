"""The tree of a conversation, and how it grows: under the newest leaf, or under the parent that the
request names.

An edit names the parent of the edited message and becomes its sibling. The conversation's own id as
parent means the top, so that a first message can be edited too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from services.chassis.errors import InvalidArgumentError, NotFoundError
from services.session.branch import Branch, branch_to
from services.session.message import (
    Conversation,
    FinishReason,
    Message,
    Role,
    TurnRequest,
    UserText,
)
from services.session.store import OwnedRows


@dataclass(frozen=True)
class Growth:
    """`branch` leads to the user's message; its last `fresh` messages are not stored yet."""

    conversation: Conversation
    branch: Branch
    fresh: int = 0

    @property
    def new(self) -> tuple[Message, ...]:
        """The messages that are not stored yet, oldest first."""
        return self.branch.newest[len(self.branch.newest) - self.fresh :]


def grow(
    rows: OwnedRows, request: TurnRequest, tokens: list[int], mint: Callable[[], str], now_us: int
) -> Growth:
    """Where the request's turn hangs; its conversation is locked. `tokens`: of the history's texts,
    then of the user's.

    Raises:
        NotFoundError: conversation, parent or message is missing or another user's.
        InvalidArgumentError: a message of the wrong kind.
    """
    if request.user is None:
        return _again(rows, request)
    if request.conversation_id:
        conversation = rows.conversation(request.conversation_id, lock=True)
        branch = _above(rows, request)
    elif request.parent_id:
        raise NotFoundError("no such message", field="parent_message_id")
    else:
        conversation, branch = Conversation(mint(), "", now_us, now_us), Branch(rows)
        rows.add_conversation(conversation)
    new = _new_messages(conversation, request, request.user, tokens, mint, now_us)
    for message in new:
        branch = branch.under(message)
    return Growth(conversation, branch, len(new))


def open_answer(
    growth: Growth,
    request: TurnRequest,
    context: tuple[Message, ...],
    mint: Callable[[], str],
    now_us: int,
) -> Message:
    """The answer to be, under the user's message."""
    answer = Message(
        id=mint(),
        conversation_id=growth.conversation.id,
        role=Role.ASSISTANT,
        text="",
        position=growth.conversation.next_position + growth.fresh,
        tokens=0,
        create_us=now_us,
        task=request.task,
        context_ids=tuple(message.id for message in context),
    )
    return growth.branch.under(answer).newest[-1]


def _again(rows: OwnedRows, request: TurnRequest) -> Growth:
    conversation = rows.conversation_with(request.regenerate_id)
    if request.conversation_id and conversation.id != request.conversation_id:
        raise NotFoundError("no such message", field="regenerate_message_id")
    message = rows.message(request.regenerate_id)
    branch = branch_to(rows, message.parent_id if message.role is Role.ASSISTANT else message.id)
    if not branch.newest or branch.newest[-1].role is not Role.USER:
        raise _wrong("regenerate_message_id", "a message of the user, or an answer to one")
    return Growth(conversation, branch)


def _above(rows: OwnedRows, request: TurnRequest) -> Branch:
    if not request.parent_id:
        return branch_to(rows, rows.newest(request.conversation_id))
    if request.parent_id == request.conversation_id:
        return Branch(rows)
    branch = branch_to(rows, request.parent_id)
    if not branch.newest or branch.newest[-1].conversation_id != request.conversation_id:
        raise NotFoundError("no such message", field="parent_message_id")
    if branch.newest[-1].role is Role.USER:
        raise _wrong(
            "parent_message_id", "an answer, a system message, or the conversation's id for its top"
        )
    return branch


def _new_messages(
    conversation: Conversation,
    request: TurnRequest,
    user: UserText,
    tokens: list[int],
    mint: Callable[[], str],
    now_us: int,
) -> list[Message]:
    """The imported history and the user's message; where they hang is not said yet."""
    new: list[Message] = []
    said = [(entry.role, entry.text) for entry in request.history] + [(Role.USER, user.text)]
    for (role, text), count in zip(said, tokens, strict=True):
        if not text:
            continue
        message = Message(
            id=mint(),
            conversation_id=conversation.id,
            role=role,
            text=text,
            position=conversation.next_position + len(new),
            tokens=count,
            create_us=now_us,
            original_text=text if role is Role.USER else "",
            finish_reason=FinishReason.STOP if role is Role.ASSISTANT else FinishReason.OPEN,
        )
        new.append(message)
    new[-1] = replace(
        new[-1], original_text=user.original_text, edits=user.edits, task=request.task
    )
    return new


def _wrong(field: str, limit: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} must be {limit}", field=field, limit=limit)
