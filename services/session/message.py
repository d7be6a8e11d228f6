"""Domain types of conversations and turns.

Times are microseconds since 1970 in UTC. Times are never used for ordering; messages are ordered by
`position`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.contracts.chat import (
    ContextMessage,
    FinishReason,
    Prompt,
    Role,
    Sample,
    Task,
    TextEdit,
    Usage,
)


@dataclass(frozen=True)
class Message:
    """One message of a conversation's tree.

    `position` counts within the conversation. `depth` is the number of ancestors, or -1 in rows
    from before migration 0003. `pinned_ids` are the ancestors needed in every context: system
    messages and the first user message, in order. `context_ids` of an answer are the messages that
    the model received, oldest first.
    """

    id: str
    conversation_id: str
    text: str
    position: int
    tokens: int
    create_us: int
    role: Role
    task: Task = Task.UNSPECIFIED
    finish_reason: FinishReason = FinishReason.OPEN
    parent_id: str = ""
    depth: int = -1
    pinned_ids: tuple[str, ...] = ()
    original_text: str = ""
    edits: tuple[TextEdit, ...] = ()
    context_ids: tuple[str, ...] = ()
    model_version: str = ""
    arm: str = ""


@dataclass(frozen=True)
class Conversation:
    """One conversation; `next_position` is the position of its next message."""

    id: str
    title: str
    create_us: int
    update_us: int
    next_position: int = 0


@dataclass(frozen=True)
class TurnRequest:
    """A request to begin a turn; either `user` or `regenerate_id` is set."""

    user: Prompt | None
    regenerate_id: str = ""
    conversation_id: str = ""
    parent_id: str = ""
    history: Sequence[ContextMessage] = ()
    request_id: str = ""
    task: Task = Task.UNSPECIFIED
    reply_tokens: int = 0


@dataclass(frozen=True)
class Turn:
    """A begun turn; `replayed` is true if an earlier request with the same id began the turn."""

    conversation_id: str
    user_message_id: str
    assistant_message_id: str
    context: tuple[ContextMessage, ...]
    context_tokens: int
    dropped_messages: int
    replayed: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer of a finished turn, with the data that the gateway reports."""

    message_id: str
    text: str
    finish_reason: FinishReason
    model_version: str = ""
    arm: str = ""
    assignment_probability: float = 0.0
    temperature: float = 0.0
    top_p: float = 0.0
    usage: Usage = field(default_factory=Usage)
    policy_version: str = ""
    guard_category: str = ""
    sample: Sample | None = None


@dataclass(frozen=True)
class StoredTurn:
    """The result of BeginTurn that is stored under a request id, for replays."""

    payload_sha256: str
    conversation_id: str
    user_message_id: str
    assistant_message_id: str
    context_tokens: int
    dropped_messages: int


@dataclass(frozen=True)
class Page:
    """A page of conversations, most recently used first; `next_token` is "" on the last page."""

    conversations: tuple[Conversation, ...]
    next_token: str = ""


@dataclass(frozen=True)
class OutboxRow:
    """An encoded turn record in the outbox."""

    id: int
    payload: bytes


@dataclass(frozen=True)
class TurnRecord:
    """Record of one finished turn for training; with `erased` only the ids are set."""

    event_id: str
    tenant: str
    principal: str
    conversation_id: str
    user_message_id: str
    answer: Answer
    finish_us: int
    task: Task = Task.UNSPECIFIED
    context: tuple[ContextMessage, ...] = ()
    original_text: str = ""
    erased: bool = False
