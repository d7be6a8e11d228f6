"""A branch of a conversation, from its top to one message: read from below, and only as far as the
context asks.

A turn must not cost more with every turn before it. What is needed of the far end, the system
messages and the user's first, each message knows by id (`Message.pinned_ids`); a message that a
version before wrote does not, and its branch is read whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.session.message import Message, Role
from services.session.store import OwnedRows

# Messages of one reading: more than most conversations have.
PAGE = 64


@dataclass(frozen=True)
class Branch:
    """`newest`: what was read of it, oldest first; `pinned`: of the whole branch, every system
    message and the user's first.
    """

    rows: OwnedRows
    newest: tuple[Message, ...] = ()
    pinned: tuple[Message, ...] = ()

    @property
    def leaf_id(self) -> str:
        """The message that it leads to, or "" for the top."""
        return self.newest[-1].id if self.newest else ""

    @property
    def depth(self) -> int:
        """How many messages it has."""
        return self.newest[-1].depth + 1 if self.newest else 0

    @property
    def pinned_ids(self) -> tuple[str, ...]:
        """What a message under the leaf keeps."""
        return tuple(message.id for message in self.pinned)

    def upwards(self) -> Iterator[Message]:
        """Every message, newest first; reads on where what was read ends."""
        page: Sequence[Message] = self.newest
        while page:
            yield from reversed(page)
            top = page[0]
            page = _placed(self.rows.path(top.parent_id, PAGE), top.depth) if top.parent_id else ()

    def under(self, message: Message) -> "Branch":
        """The branch with one message more, which gets its place here."""
        message = replace(
            message, parent_id=self.leaf_id, depth=self.depth, pinned_ids=self.pinned_ids
        )
        return Branch(self.rows, (*self.newest, message), _pinned([*self.pinned, message]))


def branch_to(rows: OwnedRows, message_id: str) -> Branch:
    """The branch that leads to this message; without messages if there is none."""
    page = rows.path(message_id, PAGE)
    if page and page[0].parent_id and page[-1].depth < 0:
        page = rows.path(message_id)
    if not page or not page[0].parent_id:
        return Branch(rows, _placed(page, len(page)), _pinned(page))
    leaf = page[-1]
    return Branch(
        rows, _placed(page, leaf.depth + 1), _pinned([*rows.messages_by_id(leaf.pinned_ids), leaf])
    )


def _placed(page: Sequence[Message], end: int) -> tuple[Message, ...]:
    """With the depths that they have if the next one's is `end`."""
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
