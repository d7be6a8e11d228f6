"""A branch of a conversation: the path from its first message to one message.

A branch is read backwards in pages, as far as the context needs, so that the cost of a turn does
not grow with the number of earlier turns. System messages and the first user message are needed in
every context; each message stores their ids (`Message.pinned_ids`). Rows from before migration
0003 have no such ids, and their branches are read completely.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.contracts.chat import Role
from services.session.message import Message
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
