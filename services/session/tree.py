"""Tree of a conversation: the path from its first message to one message, and new messages.

A branch is such a path. It is read backwards in pages, as far as the context needs, so that the
cost of a turn does not grow with the number of earlier turns. System messages and the first user
message are needed in every context; each message stores their ids (`Message.pinned_ids`). Rows from
before migration 0003 have no such ids, and their branches are read completely.

New messages are appended to the newest leaf, or to the parent that the request names. An edit names
the parent of the edited message and becomes a sibling. The id of the conversation as parent means
the root, so that the first message can be edited too.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import NotFoundError
from services.contracts.chat import FinishReason, Role
from services.contracts.limits import field_error
from services.contracts.wire import ROLES, TASKS, text_edits
from services.session.message import Conversation, Message
from services.session.store.store import OwnedRows

# Messages per read; more than most conversations have.
PAGE = 64


@dataclass(frozen=True)
class Branch:
    """A branch whose newest messages have been read.

    Args:
        rows: the owner's rows, for further reads.
        newest: the messages read so far, oldest first.
        pinned: all system messages of the branch and the first user message.
    """

    rows: OwnedRows
    newest: tuple[Message, ...] = ()
    pinned: tuple[Message, ...] = ()

    @property
    def leaf_id(self) -> str:
        """Id of the last message, or "" for an empty branch."""
        return self.newest[-1].id if self.newest else ""

    @property
    def depth(self) -> int:
        """Number of messages of the branch."""
        return self.newest[-1].depth + 1 if self.newest else 0

    @property
    def pinned_ids(self) -> tuple[str, ...]:
        """Value of `Message.pinned_ids` for a child of the leaf."""
        return tuple(message.id for message in self.pinned)

    def newest_first(self) -> Iterator[Message]:
        """Yield all messages, newest first; further pages are read on demand."""
        page: Sequence[Message] = self.newest
        while page:
            yield from reversed(page)
            top = page[0]
            page = (
                _with_depths(self.rows.path(top.parent_id, PAGE), top.depth)
                if top.parent_id
                else ()
            )

    def append(self, message: Message) -> "Branch":
        """Return the branch with `message` as child of the leaf; parent, depth and pins are set."""
        message = replace(
            message, parent_id=self.leaf_id, depth=self.depth, pinned_ids=self.pinned_ids
        )
        return Branch(self.rows, (*self.newest, message), _pinned([*self.pinned, message]))


def branch_to(rows: OwnedRows, message_id: str) -> Branch:
    """Read the branch that ends with a message; the branch is empty if the message is missing."""
    page = rows.path(message_id, PAGE)
    # A leaf from before migration 0003 has neither depth nor pinned ids.
    if page and page[0].parent_id and page[-1].depth < 0:
        page = rows.path(message_id)
    if not page or not page[0].parent_id:
        return Branch(rows, _with_depths(page, len(page)), _pinned(page))
    leaf = page[-1]
    pinned = _pinned([*rows.messages_by_id(leaf.pinned_ids), leaf])
    return Branch(rows, _with_depths(page, leaf.depth + 1), pinned)


def _with_depths(page: Sequence[Message], end: int) -> tuple[Message, ...]:
    """Number the depths of consecutive messages; `end` is the depth after the last."""
    return tuple(
        replace(message, depth=end - len(page) + number) for number, message in enumerate(page)
    )


def _pinned(messages: Sequence[Message]) -> tuple[Message, ...]:
    found: list[Message] = []
    for message in messages:
        opens = (
            message.role is Role.USER
            and message.text.strip()
            and all(m.role is not Role.USER for m in found)
        )
        if opens or message.role is Role.SYSTEM:
            found.append(message)
    return tuple(found)


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
    rows: OwnedRows,
    request: session_pb2.BeginTurnRequest,
    tokens: list[int],
    new_id: Callable[[], str],
    now_us: int,
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
    if not request.HasField("user"):
        conversation = rows.conversation_of_message(request.regenerate_message_id)
        if request.conversation_id and conversation.id != request.conversation_id:
            raise NotFoundError("no such message", field="regenerate_message_id")
        message = rows.message(request.regenerate_message_id)
        above = message.parent_id if message.role is Role.ASSISTANT else message.id
        branch = branch_to(rows, above)
        if not branch.newest or branch.newest[-1].role is not Role.USER:
            raise field_error("regenerate_message_id", "a message of the user, or an answer to one")
        return AppendPlan(conversation, branch)
    if request.conversation_id:
        # Lock before reading the leaf: concurrent turns of one conversation get distinct positions.
        conversation = rows.conversation(request.conversation_id, lock=True)
        branch = _parent_branch(rows, request)
    elif request.parent_message_id:
        raise NotFoundError("no such message", field="parent_message_id")
    else:
        conversation = Conversation(
            new_id(),
            "",
            now_us,
            now_us,
            client_keeps_conversation=request.client_keeps_conversation,
        )
        branch = Branch(rows)
        rows.add_conversation(conversation)
    new = _new_messages(conversation, request, tokens, new_id, now_us)
    for message in new:
        branch = branch.append(message)
    return AppendPlan(conversation, branch, len(new))


def open_answer(
    plan: AppendPlan,
    request: session_pb2.BeginTurnRequest,
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
        task=TASKS[request.task],
        context_ids=tuple(message.id for message in context),
    )
    return plan.branch.append(answer).newest[-1]


def _parent_branch(rows: OwnedRows, request: session_pb2.BeginTurnRequest) -> Branch:
    if not request.parent_message_id:
        return branch_to(rows, rows.newest(request.conversation_id))
    if request.parent_message_id == request.conversation_id:
        return Branch(rows)
    branch = branch_to(rows, request.parent_message_id)
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
    request: session_pb2.BeginTurnRequest,
    tokens: list[int],
    new_id: Callable[[], str],
    now_us: int,
) -> list[Message]:
    """Create messages for the imported history and the user's text, without parents."""
    new: list[Message] = []
    user = request.user
    texts = [(ROLES[entry.role], entry.text) for entry in request.history]
    texts.append((Role.USER, user.text))
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
        new[-1],
        original_text=user.original_text,
        edits=text_edits(user.edits),
        task=TASKS[request.task],
    )
    return new
