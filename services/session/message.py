"""What a conversation is made of. Times are microseconds since 1970 in UTC: data, never an order;
order is `position`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Who wrote a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Task(StrEnum):
    """What kind of answer is wanted."""

    UNSPECIFIED = "unspecified"
    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"


class FinishReason(StrEnum):
    """Why an answer ended; OPEN while it has not."""

    OPEN = "unspecified"
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INPUT_BLOCKED = "input_blocked"
    OUTPUT_BLOCKED = "output_blocked"
    FAILED = "failed"


@dataclass(frozen=True)
class TextEdit:
    """One change of the enhancer; start and end in characters of the original."""

    start: int
    end: int
    replacement: str
    kind: str


@dataclass(frozen=True)
class Message:
    """One row of the tree.

    `depth`: how many messages are above it, -1 in rows of a version that did not count;
        `pinned_ids`: of those, the system
    messages and the user's first, in order; `context_ids`, of an answer: the messages that its
    model was given, oldest first.
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
    """One conversation; `next_position` is the position that its next message gets."""

    id: str
    title: str
    create_us: int
    update_us: int
    next_position: int = 0


@dataclass(frozen=True)
class Said:
    """One message of a context or of an imported history."""

    role: Role
    text: str


@dataclass(frozen=True)
class UserText:
    """A user's message, as it was typed and as the model gets it."""

    original_text: str
    text: str
    edits: tuple[TextEdit, ...] = ()


@dataclass(frozen=True)
class TurnRequest:
    """The start of a turn: either `user` or `regenerate_id` is set."""

    user: UserText | None
    regenerate_id: str = ""
    conversation_id: str = ""
    parent_id: str = ""
    history: Sequence[Said] = ()
    request_id: str = ""
    task: Task = Task.UNSPECIFIED
    reply_tokens: int = 0


@dataclass(frozen=True)
class Turn:
    """A turn that was begun."""

    conversation_id: str
    user_message_id: str
    assistant_message_id: str
    context: tuple[Said, ...]
    context_tokens: int
    dropped_messages: int
    replayed: bool = False


@dataclass(frozen=True)
class Sample:
    """What the model sampled: token ids, and the log-prob of each. It is in the turn's record,
    never in a conversation's row.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True)
class Answer:
    """The end of a turn, as the gateway tells it."""

    message_id: str
    text: str
    finish_reason: FinishReason
    model_version: str = ""
    arm: str = ""
    assignment_probability: float = 0.0
    temperature: float = 0.0
    top_p: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    policy_version: str = ""
    guard_category: str = ""
    cached: bool = False
    sample: Sample | None = None


@dataclass(frozen=True)
class StoredTurn:
    """What BeginTurn stored under a request id: enough to answer the same again."""

    payload_sha256: str
    conversation_id: str
    user_message_id: str
    assistant_message_id: str
    context_tokens: int
    dropped_messages: int


@dataclass(frozen=True)
class Page:
    """Some conversations, last used first, and where the next page begins."""

    conversations: tuple[Conversation, ...]
    next_token: str = ""


@dataclass(frozen=True)
class OutboxRow:
    """A turn's record on its way to the feedback service."""

    id: int
    payload: bytes


@dataclass(frozen=True)
class TurnRecord:
    """One finished turn, as training needs it; or, erased, only its ids."""

    event_id: str
    tenant: str
    principal: str
    conversation_id: str
    user_message_id: str
    answer: Answer
    finish_us: int
    task: Task = Task.UNSPECIFIED
    context: tuple[Said, ...] = ()
    original_text: str = ""
    erased: bool = False
