"""Work of a reviewer: the next item, reviews, disagreements and their resolution."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import Counter

from services.chassis.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from services.contracts.limits import check_uuid, field_error
from services.contracts.wire import now_us
from services.review.reviewing.disagreement import RatingRules, Verdict, judge
from services.review.reviewing.item import Item, ItemState, Review, Reviewer
from services.review.reviewing.items import token_error
from services.review.reviewing.judgement import GivenReview, judgement_of
from services.review.reviewing.order import shown_order

LEASE_US = 3_600_000_000
MAX_PAGE, DEFAULT_PAGE = 50, 20
_TOKEN = re.compile(r"(\d{1,3})/([0-9a-f-]{36})")

REVIEWS = Counter("thumbwheel_review_reviews_total", "Stored reviews and resolutions.", ["kind"])
ITEMS = Counter(
    "thumbwheel_review_items_judged_total",
    "Items after their last review, by outcome: complete (the reviewers agree) or disagreed.",
    ["outcome"],
)
# From the start, so that a rate includes the first review.
for _kind in ("review", "resolution"):
    REVIEWS.labels(_kind)
for _outcome in ("complete", "disagreed"):
    ITEMS.labels(_outcome)

Judge = Callable[[Sequence[Review]], Verdict]


@dataclass(frozen=True)
class Disagreement:
    """Item that waits for a resolution, with its reviews, oldest first."""

    item: Item
    reviews: Sequence[Review]
    difference: int


@dataclass(frozen=True)
class Added:
    """Review of the caller as stored, and the state of the item if this call stored it."""

    review: Review
    verdict: Verdict | None = None


class ReviewStore(Protocol):
    """Reviews in the database; all methods raise UnavailableError without it.

    Items of another tenant and items with words of the reviewer are not found.
    """

    async def next_item(
        self, reviewer: Reviewer, raters: int, now_us: int, until_us: int
    ) -> tuple[Item, int] | None:
        """Lease an item until a time; return it with the number of items left to the reviewer."""

    async def item(self, reviewer: Reviewer, item_id: str) -> Item | None:
        """Return an item that the reviewer may see."""

    async def add_review(
        self, reviewer: Reviewer, item: Item, review: Review, decide: Judge
    ) -> Added:
        """Store a review unless the reviewer has one, and the state of the item.

        When the item is complete, the events of the counted reviews are added to the outbox in the
        same transaction.

        Raises:
            NotFoundError: the item was removed.
            FailedPreconditionError: the item is not open.
        """

    async def skip(self, reviewer: Reviewer, item_id: str) -> None:
        """Leave an item out for this reviewer."""

    async def disagreements(
        self, reviewer: Reviewer, before: tuple[int, str] | None, most: int
    ) -> tuple[Sequence[Disagreement], bool]:
        """Return disagreements, largest first, from after a difference and id.

        Fewer than `most` are returned if their texts are long. The second value is True if further
        ones follow.
        """

    async def resolve(
        self, reviewer: Reviewer, item: Item, resolution: Review, *, own_allowed: bool
    ) -> Added:
        """Store a resolution with its events, unless the item has one of the same reviewer.

        Raises:
            NotFoundError: the item was removed.
            AlreadyExistsError: the item has the resolution of another reviewer.
            FailedPreconditionError: no disagreement, or the reviewer has judged the item and that
                is not allowed.
        """


class Reviews:
    """Domain logic of ReviewService; `wake` notifies the relay of new events."""

    def __init__(self, store: ReviewStore, rules: RatingRules, wake: Callable[[], None]) -> None:
        self._store, self._rules, self._wake = store, rules, wake

    async def next_item(self, reviewer: Reviewer) -> tuple[Item, int]:
        """Lease the next item to the reviewer, and count the items left.

        Raises:
            NotFoundError: nothing is left to judge.
            UnavailableError: the database does not answer.
        """
        now = now_us()
        found = await self._store.next_item(reviewer, self._rules.raters, now, now + LEASE_US)
        if found is None:
            raise NotFoundError("no item is left to judge", reason="NO_ITEM")
        return found

    async def submit(self, reviewer: Reviewer, item_id: str, given: GivenReview) -> None:
        """Store a review; the same review can be sent again.

        Raises:
            InvalidArgumentError: a value exceeds its limit.
            NotFoundError: the item is unknown to the reviewer, or was removed.
            AlreadyExistsError: the reviewer has judged the item otherwise.
            FailedPreconditionError: the item is complete without this review.
            UnavailableError: nothing was stored.
        """
        item, review = await self._review(reviewer, item_id, given)
        added = await self._store.add_review(
            reviewer, item, review, lambda reviews: judge(reviews, self._rules.of(item))
        )
        if added.review.judgement != review.judgement:
            raise AlreadyExistsError(
                "the item has another review of the caller",
                reason="ITEM_HAS_REVIEW",
                field="review",
                limit="one review for each item",
            )
        if added.verdict:
            REVIEWS.labels("review").inc()
            if added.verdict.state is not ItemState.OPEN:
                ITEMS.labels(added.verdict.state.value).inc()
            self._wake()

    async def skip(self, reviewer: Reviewer, item_id: str) -> None:
        """Leave an item to other reviewers.

        Raises:
            InvalidArgumentError: the id is no UUID.
            NotFoundError: the item is unknown to the reviewer.
            UnavailableError: nothing was stored.
        """
        await self._item(reviewer, item_id)
        await self._store.skip(reviewer, item_id)

    async def disagreements(
        self, reviewer: Reviewer, page_size: int, token: str
    ) -> tuple[Sequence[Disagreement], str]:
        """Return a page of disagreements, largest first, and the token of the next page.

        Raises:
            InvalidArgumentError: the size is too large, or the token is not of an earlier page.
            UnavailableError: the database does not answer.
        """
        if page_size > MAX_PAGE:
            raise field_error("page_size", f"at most {MAX_PAGE}, or 0", str(page_size))
        before = None
        if token:
            match = _TOKEN.fullmatch(token)
            if match is None:
                raise token_error()
            before = (int(match[1]), match[2])
        most = page_size or DEFAULT_PAGE
        found, has_more = await self._store.disagreements(reviewer, before, most)
        return found, f"{found[-1].difference}/{found[-1].item.item_id}" if has_more else ""

    async def resolve(self, reviewer: Reviewer, item_id: str, given: GivenReview) -> None:
        """Store the final judgement of an item; the same one can be sent again.

        Raises:
            InvalidArgumentError: a value exceeds its limit.
            NotFoundError: the item is unknown to the reviewer, or was removed.
            AlreadyExistsError: the item has another resolution.
            FailedPreconditionError: the item has no disagreement, or the reviewer has judged it.
            UnavailableError: nothing was stored.
        """
        item, review = await self._review(reviewer, item_id, given)
        added = await self._store.resolve(
            reviewer, item, review, own_allowed=self._rules.resolve_own
        )
        if added.review.judgement != review.judgement:
            raise other_resolution()
        if added.verdict:
            REVIEWS.labels("resolution").inc()
            self._wake()

    async def _item(self, reviewer: Reviewer, item_id: str) -> Item:
        check_uuid(item_id, "item_id")
        item = await self._store.item(reviewer, item_id)
        if item is None:
            raise no_such_item()
        return item

    async def _review(
        self, reviewer: Reviewer, item_id: str, given: GivenReview
    ) -> tuple[Item, Review]:
        item = await self._item(reviewer, item_id)
        order = shown_order(item_id, reviewer.principal, len(item.answers))
        judgement = judgement_of(given, order, is_appeal=item.appeal is not None)
        return item, Review(reviewer.principal, reviewer.user, judgement, now_us())


def no_such_item() -> NotFoundError:
    """Return the error for an item that the reviewer must not see, or that was removed."""
    return NotFoundError("no such item", field="item_id")


def closed_item() -> FailedPreconditionError:
    """Return the error for a review of an item that needs no further one."""
    return FailedPreconditionError(
        "the item has all its reviews",
        reason="ITEM_CLOSED",
        field="item_id",
        limit="an item that needs a review",
    )


def other_resolution() -> AlreadyExistsError:
    """Return the error for a second resolution of an item."""
    return AlreadyExistsError(
        "the item has another resolution",
        reason="ITEM_HAS_RESOLUTION",
        field="item_id",
        limit="one resolution for each item",
    )
