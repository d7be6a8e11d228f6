"""Domain types of conversations.

Times are microseconds since 1970 in UTC. Times are never used for ordering; messages are ordered by
`position`.
"""

from dataclasses import dataclass, replace

from services.contracts.chat import FinishReason, Role, Task, TextEdit


@dataclass(frozen=True)
class Message:
    """One message of a conversation's tree.

    `position` counts within the conversation. `depth` is the number of ancestors, or -1 in rows
    from before migration 0003. `pinned_ids` are the ancestors needed in every context: system
    messages and the first user message, in order. `context_ids` of an answer are the messages that
    the model received, oldest first. The verdict of the guard, `guard_category`, `guard_score` and
    `policy_version`, is that of a blocked answer, else empty.
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
    guard_category: str = ""
    guard_score: float = 0.0
    policy_version: str = ""

    def with_verdict(self, category: str, score: float, policy_version: str) -> "Message":
        """Return the answer with the verdict that blocked it."""
        return replace(
            self, guard_category=category, guard_score=score, policy_version=policy_version
        )


@dataclass(frozen=True)
class Conversation:
    """A conversation; `next_position` is the position of its next message.

    A conversation with `client_keeps_conversation` does not count against the limits.
    """

    id: str
    title: str
    create_us: int
    update_us: int
    next_position: int = 0
    client_keeps_conversation: bool = False


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
class MessagePage:
    """A page of messages, oldest first; `next_token` is "" on the page with the oldest messages."""

    conversation: Conversation
    messages: tuple[Message, ...]
    next_token: str = ""


@dataclass(frozen=True)
class Page:
    """A page of conversations, most recently used first; `next_token` is "" on the last page."""

    conversations: tuple[Conversation, ...]
    next_token: str = ""
