"""Position of a new turn in the tree of a conversation.

New messages are appended to the newest leaf, or to the parent that the request names. An edit names
the parent of the edited message and becomes a sibling. The id of the conversation as parent means
the root, so that the first message can be edited too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from services.chassis.errors import NotFoundError
from services.contracts.chat import FinishReason, Prompt, Role
from services.contracts.limits import field_error
from services.session.message import Conversation, Message, TurnRequest
from services.session.store.store import OwnedRows
from services.session.turns.branch import Branch, branch_to


@dataclass(frozen=True)
class AppendPlan:
    """New messages of a turn and their position.

    `branch` ends with the user's message. The last `new_count` messages are not stored yet.
    """

    conversation: Conversation
    branch: Branch
    new_count: int = 0

    @property
    def new_messages(self) -> tuple[Message, ...]:
        """Messages to be stored, oldest first."""
        return self.branch.newest[len(self.branch.newest) - self.new_count :]


def plan_append(
    rows: OwnedRows, request: TurnRequest, tokens: list[int], new_id: Callable[[], str], now_us: int
) -> AppendPlan:
    """Determine the position of a turn and lock its conversation.

    Args:
        rows: rows of the owner.
        request: the turn.
        tokens: tokens of each text of the history, then of the user's text.
        new_id: source of ids.
        now_us: time of the turn.

    Raises:
        NotFoundError: conversation, parent or message is missing or belongs to another user.
        InvalidArgumentError: the parent or the message to regenerate has the wrong role.
    """
    if request.user is None:
        return _plan_regeneration(rows, request)
    if request.conversation_id:
        # Lock before reading the leaf: concurrent turns of one conversation get distinct positions.
        conversation = rows.conversation(request.conversation_id, lock=True)
        branch = _parent_branch(rows, request)
    elif request.parent_id:
        raise NotFoundError("no such message", field="parent_message_id")
    else:
        conversation, branch = Conversation(new_id(), "", now_us, now_us), Branch(rows)
        rows.add_conversation(conversation)
    new = _new_messages(conversation, request, request.user, tokens, new_id, now_us)
    for message in new:
        branch = branch.append(message)
    return AppendPlan(conversation, branch, len(new))


def open_answer(
    plan: AppendPlan,
    request: TurnRequest,
    context: tuple[Message, ...],
    new_id: Callable[[], str],
    now_us: int,
) -> Message:
    """Create the open answer as a child of the user's message."""
    answer = Message(
        id=new_id(),
        conversation_id=plan.conversation.id,
        role=Role.ASSISTANT,
        text="",
        position=plan.conversation.next_position + plan.new_count,
        tokens=0,
        create_us=now_us,
        task=request.task,
        context_ids=tuple(message.id for message in context),
    )
    return plan.branch.append(answer).newest[-1]


def _plan_regeneration(rows: OwnedRows, request: TurnRequest) -> AppendPlan:
    conversation = rows.conversation_of_message(request.regenerate_id)
    if request.conversation_id and conversation.id != request.conversation_id:
        raise NotFoundError("no such message", field="regenerate_message_id")
    message = rows.message(request.regenerate_id)
    branch = branch_to(rows, message.parent_id if message.role is Role.ASSISTANT else message.id)
    if not branch.newest or branch.newest[-1].role is not Role.USER:
        raise field_error("regenerate_message_id", "a message of the user, or an answer to one")
    return AppendPlan(conversation, branch)


def _parent_branch(rows: OwnedRows, request: TurnRequest) -> Branch:
    if not request.parent_id:
        return branch_to(rows, rows.newest(request.conversation_id))
    if request.parent_id == request.conversation_id:
        return Branch(rows)
    branch = branch_to(rows, request.parent_id)
    if not branch.newest or branch.newest[-1].conversation_id != request.conversation_id:
        raise NotFoundError("no such message", field="parent_message_id")
    if branch.newest[-1].role is Role.USER:
        raise field_error(
            "parent_message_id",
            "an answer, a system message, or the conversation's id for its root",
        )
    return branch


def _new_messages(
    conversation: Conversation,
    request: TurnRequest,
    user: Prompt,
    tokens: list[int],
    new_id: Callable[[], str],
    now_us: int,
) -> list[Message]:
    """Create messages for the imported history and the user's text, without parents."""
    new: list[Message] = []
    texts = [(entry.role, entry.text) for entry in request.history] + [(Role.USER, user.text)]
    for (role, text), count in zip(texts, tokens, strict=True):
        if not text:
            continue
        message = Message(
            id=new_id(),
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
