"""Items: addition by the draw, removal, expiry, and export with their reviews."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import InvalidArgumentError
from services.contracts.limits import (
    MAX_HISTORY,
    MAX_ITEM_ANSWERS,
    MAX_NAME_CHARACTERS,
    MAX_REQUEST_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    check_uuid,
    field_error,
)
from services.contracts.wire import now_us
from services.review.reviewing.item import BlockDecision, Item, Review

DAY_US = 86_400_000_000
MAX_ITEMS = 100
MAX_REMOVED = 1_000
MAX_EXPORTED = 100

_PRINCIPAL = re.compile(r"[0-9a-f]{64}")
_EXPORT_TOKEN = re.compile(r"(\d{1,18})/([0-9a-f-]{36})")


@dataclass(frozen=True)
class ReviewedItem:
    """Item with its reviews, oldest first, and the resolution, if any."""

    item: Item
    create_us: int
    reviews: Sequence[Review]
    resolution: Review | None
    is_complete: bool

    @property
    def block_decision(self) -> BlockDecision | None:
        """Decision on a complete appeal: the resolution, or the majority; otherwise None."""
        if not self.is_complete:
            return None
        if self.resolution:
            return self.resolution.judgement.opinion.block
        given = [review.judgement.opinion.block for review in self.reviews]
        # Without reviews, after the erasure of the reviewers, no decision is known.
        return max(BlockDecision, key=given.count) if given else None


class ItemStore(Protocol):
    """Items in the database; all methods raise UnavailableError without it."""

    async def add(self, items: Sequence[Item], create_us: int) -> int:
        """Store new items, without those from before an erasure of their user; return the number.

        Known items stay as they are.
        """

    async def remove(self, principals: Sequence[str], item_ids: Sequence[str]) -> int:
        """Remove drawn items of users with their waiting events, and items by id, with reviews.

        Returns the number of items.
        """

    async def remove_until(self, create_us: int) -> int:
        """Remove items that were added until a time with their reviews; return the number."""

    async def reviewed(
        self, after: tuple[int, str], most: int
    ) -> tuple[Sequence[ReviewedItem], bool]:
        """Return items with reviews in the order of time and id, from after such a pair.

        Fewer than `most` are returned if their texts are long. The second value is True if further
        items follow.
        """


class Items:
    """Domain logic of ReviewItemService; items are kept for `keep_days`."""

    def __init__(self, store: ItemStore, keep_days: float) -> None:
        self._store, self._keep_us = store, int(keep_days * DAY_US)

    async def add(self, items: Sequence[Item]) -> int:
        """Add items; return the number of those that were stored now.

        Raises:
            InvalidArgumentError: a field exceeds its limit; nothing was stored.
            UnavailableError: nothing was stored.
        """
        for number, item in enumerate(items):
            check_item(item, f"items[{number}]")
        return await self._store.add(items, now_us())

    async def remove(self, principals: Sequence[str], item_ids: Sequence[str] = ()) -> int:
        """Remove all items of users, and items by id; return their number.

        Raises:
            InvalidArgumentError: no or too many principals or ids, or a malformed one.
            UnavailableError: nothing was removed.
        """
        for name, values in (("principals", principals), ("item_ids", item_ids)):
            if len(values) > MAX_REMOVED:
                raise field_error(name, f"at most {MAX_REMOVED:,}", f"{len(values):,}")
        if not principals and not item_ids:
            raise field_error("principals", "at least one, or item_ids", "0")
        for number, principal in enumerate(principals):
            check_principal(principal, f"principals[{number}]")
        for number, item_id in enumerate(item_ids):
            check_uuid(item_id, f"item_ids[{number}]")
        return await self._store.remove(principals, item_ids)

    async def expire(self) -> None:
        """Remove items that are older than the days for which they are kept.

        Raises:
            UnavailableError: the database does not answer.
        """
        await self._store.remove_until(now_us() - self._keep_us)

    async def reviewed(self, page_size: int, token: str) -> tuple[Sequence[ReviewedItem], str]:
        """Return a page of items with reviews, and the token of the next page.

        Raises:
            InvalidArgumentError: the size is too large, or the token is not of an earlier page.
            UnavailableError: the database does not answer.
        """
        if page_size > MAX_EXPORTED:
            raise field_error("page_size", f"at most {MAX_EXPORTED}, or 0", str(page_size))
        after = (-1, "")
        if token:
            match = _EXPORT_TOKEN.fullmatch(token)
            if match is None:
                raise token_error()
            after = (int(match[1]), match[2])
        found, has_more = await self._store.reviewed(after, page_size or MAX_EXPORTED)
        return found, f"{found[-1].create_us}/{found[-1].item.item_id}" if has_more else ""


def check_item(item: Item, field: str) -> None:
    """Check the fields of an item.

    Raises:
        InvalidArgumentError: a field exceeds its limit; the error names field and limit.
    """
    check_uuid(item.item_id, f"{field}.item.item_id")
    check_uuid(item.conversation_id, f"{field}.conversation_id")
    check_uuid(item.message_id, f"{field}.message_id")
    check_principal(item.principal, f"{field}.principal")
    if not item.tenant:
        raise field_error(f"{field}.tenant", f"1 to {MAX_NAME_CHARACTERS} characters")
    _check_name(item.tenant, f"{field}.tenant")
    _check_name(item.arm, f"{field}.arm")
    if not 1 <= len(item.context) <= MAX_HISTORY:
        raise field_error(f"{field}.item.context", f"1 to {MAX_HISTORY} messages")
    if sum(len(message.text) for message in item.context) > MAX_REQUEST_CHARACTERS:
        raise field_error(f"{field}.item.context", f"at most {MAX_REQUEST_CHARACTERS:,} characters")
    if not 1 <= len(item.answers) <= MAX_ITEM_ANSWERS:
        raise field_error(
            f"{field}.item.answers", f"1 to {MAX_ITEM_ANSWERS}", str(len(item.answers))
        )
    for number, answer in enumerate(item.answers):
        if not answer.text.strip() or len(answer.text) > MAX_TEXT_CHARACTERS:
            raise field_error(
                f"{field}.item.answers[{number}].text",
                f"1 to {MAX_TEXT_CHARACTERS:,} characters, not only spaces",
            )
        check_uuid(answer.message_id, f"{field}.message_ids[{number}]", optional=True)
        _check_name(answer.model_version, f"{field}.model_versions[{number}]")
    stored = [answer.message_id for answer in item.answers if answer.message_id]
    if len(set(stored)) < len(stored):
        raise field_error(f"{field}.message_ids", "different answers")
    if item.message_id not in stored:
        raise field_error(f"{field}.message_id", "one of message_ids")


def check_principal(text: str, field: str) -> None:
    """Check the form of a pseudonym.

    Raises:
        InvalidArgumentError: it is malformed.
    """
    if not _PRINCIPAL.fullmatch(text):
        raise field_error(field, "64 hexadecimal digits, lower case")


def token_error() -> InvalidArgumentError:
    """Return the error for a token that no page has returned."""
    return field_error("page_token", "the token of the previous page")


def _check_name(name: str, field: str) -> None:
    if len(name) > MAX_NAME_CHARACTERS or "\0" in name:
        raise field_error(field, f"at most {MAX_NAME_CHARACTERS} characters, none of them NUL")
