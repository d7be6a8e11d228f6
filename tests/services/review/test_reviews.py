"""Work of reviewers: queue, agreement, disagreement, resolution, and refused reviews."""

import asyncio
from typing import Any

import grpc
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.review.v1 import review_pb2

from services.contracts.limits import MAX_COMMENT_CHARACTERS, MAX_CORRECTION_CHARACTERS
from services.contracts.wire import now_us
from services.review.store.database import open_database
from services.review.store.outbox import SqlOutbox
from tests.services.review.service import (
    ADA,
    BOB,
    CARL,
    DORA,
    EVE,
    OTHER_ADA,
    UNKNOWN_ID,
    Home,
    Review,
    drawn_item,
    error_of,
    principal,
    review_of,
    review_service,
)

NO_ITEM = ("NOT_FOUND", "NO_ITEM", "")
MISSING = ("NOT_FOUND", "NOT_FOUND", "item_id")
INVALID = ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
CLOSED = ("FAILED_PRECONDITION", "ITEM_CLOSED", "item_id")
OTHER_REVIEW = ("ALREADY_EXISTS", "ITEM_HAS_REVIEW", "review")


async def events_of(review: Review, count: int) -> list[Any]:
    """Wait for a number of events, and check that no more come."""
    events = review.peers.feedback.events
    async with asyncio.timeout(10):
        while len(events) < count:
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.15)
    assert len(events) == count
    return events


async def test_rankings_of_two_raters_who_agree_are_sent(home: Home) -> None:
    async with review_service(home) as review:
        drawn = drawn_item("one", "two", "three")
        assert await review.add_items(drawn) == 1
        await review.judge(BOB, "two", "one", "three")
        await events_of(review, 0)
        await review.judge(CARL, "two", "three", "one", score=5)
        first, second = sorted(await events_of(review, 2), key=lambda e: e.rater != principal(BOB))
        assert await error_of(review.next_item(DORA)) == NO_ITEM
        assert await error_of(review.next_item(BOB)) == NO_ITEM
        (exported,) = (await review.exported()).items
    ranks = [[answer.rank for answer in event.ranking.answers] for event in (first, second)]
    assert ranks == [[2, 1, 3], [3, 1, 2]]
    assert (first.rater, second.rater) == (principal(BOB), principal(CARL))
    for event in (first, second):
        assert event.principal == principal(ADA)
        assert (event.message_id, event.model_version) == (drawn.message_id, "version-0")
        assert (event.conversation_id, event.arm) == (drawn.conversation_id, "stable")
        answers = event.ranking.answers
        assert [answer.message_id for answer in answers] == list(drawn.message_ids)
        assert [answer.text for answer in answers] == ["", "", "three"]
        assert [answer.model_version for answer in answers] == list(drawn.model_versions)
    assert (exported.complete, exported.item) == (True, drawn)
    assert list(exported.raters) == [principal(BOB), principal(CARL)]


async def test_written_answer_becomes_a_correction_by_the_rater(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        drawn = drawn_item("one")
        await review.add_items(drawn)
        await review.judge(BOB, written="better")
        await review.judge(CARL)
        (event,) = await events_of(review, 1)
    assert event.correction.text == "better"
    assert (event.rater, event.principal) == (principal(BOB), principal(ADA))
    assert (event.message_id, event.model_version) == (drawn.message_id, "version-0")


async def test_item_gets_a_third_review_after_a_disagreement(sqlite_home: Home) -> None:
    """The majority counts; the review that differs from it trains nothing."""
    async with review_service(sqlite_home) as review:
        await review.add_items(drawn_item())
        await review.judge(BOB, "one", "two")
        await review.judge(CARL, "two", "one")
        assert not (await review.disagreements(DORA)).disagreements
        await events_of(review, 0)
        await review.judge(DORA, "two", "one")
        events = await events_of(review, 2)
        assert (await review.agreement(BOB)).disagreements == 0
    assert {event.rater for event in events} == {principal(CARL), principal(DORA)}


async def disagree(review: Review, *items: review_pb2.DrawnItem) -> None:
    """Let three reviewers disagree on items with one answer."""
    await review.add_items(*items)
    for caller, score in ((BOB, 1), (CARL, 3), (DORA, 5)):
        for _ in items:
            await review.judge(caller, score=score, written=f"by {dict(caller)['x-tw-user']}")


async def test_only_the_resolution_of_a_disagreement_is_sent(home: Home) -> None:
    async with review_service(home) as review:
        drawn = drawn_item("one", "two")
        await disagree(review, drawn)
        await events_of(review, 0)
        assert await error_of(review.next_item(EVE)) == NO_ITEM
        (found,) = (await review.disagreements(EVE)).disagreements
        assert [one.scores[0].correctness for one in found.reviews] == [1, 3, 5]
        assert not any(one.own for one in found.reviews)
        (own,) = (await review.disagreements(CARL)).disagreements
        assert [one.own for one in own.reviews] == [False, True, False]
        assert principal(BOB).encode() not in found.SerializeToString()
        assert (await review.agreement(EVE)).disagreements == 1

        final = review_of(found.item, "two", "one", written="final")
        error = await error_of(review.resolve(BOB, found.item.item_id, final))
        assert error == ("FAILED_PRECONDITION", "OWN_REVIEW", "item_id")
        await review.resolve(EVE, found.item.item_id, final)
        await review.resolve(EVE, found.item.item_id, final)
        other = review_of(found.item, "one", "two")
        error = await error_of(review.resolve(EVE, found.item.item_id, other))
        assert error == ("ALREADY_EXISTS", "ITEM_HAS_RESOLUTION", "item_id")
        events = await events_of(review, 2)
        assert {event.rater for event in events} == {principal(EVE)}
        assert not (await review.disagreements(EVE)).disagreements
        (exported,) = (await review.exported()).items
    ranking, correction = sorted(events, key=lambda event: event.HasField("correction"))
    assert [answer.rank for answer in ranking.ranking.answers] == [2, 1]
    assert correction.correction.text == "final"
    assert (exported.complete, exported.resolver) == (True, principal(EVE))
    assert exported.resolution.written_answer == "final"
    assert len(exported.reviews) == 3


async def test_rater_resolves_a_disagreement_if_the_setting_allows_it(sqlite_home: Home) -> None:
    settings = {"further_raters": 0, "resolve_own": True}
    async with review_service(sqlite_home, **settings) as review:
        await review.add_items(drawn_item())
        await review.judge(BOB, "one", "two")
        item_id = await review.judge(CARL, "two", "one")
        (found,) = (await review.disagreements(BOB)).disagreements
        await review.resolve(BOB, item_id, review_of(found.item, "one", "two"))
        error = await error_of(review.resolve(CARL, item_id, review_of(found.item, "one", "two")))
        assert error == ("ALREADY_EXISTS", "ITEM_HAS_RESOLUTION", "item_id")
        (event,) = await events_of(review, 1)
    assert event.rater == principal(BOB)


async def test_item_without_a_disagreement_has_no_resolution(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        await review.add_items(drawn_item())
        item = await review.next_item(EVE)
        error = await error_of(review.resolve(EVE, item.item_id, review_of(item)))
    assert error == ("FAILED_PRECONDITION", "NO_DISAGREEMENT", "item_id")


async def test_same_review_can_be_sent_again_and_another_is_refused(home: Home) -> None:
    async with review_service(home) as review:
        await review.add_items(drawn_item())
        item = await review.next_item(BOB)
        given = review_of(item, "one", "two")
        calls = [review.submit(BOB, item.item_id, given) for _ in range(3)]
        await asyncio.gather(*calls)
        other = review_of(item, "two", "one")
        assert await error_of(review.submit(BOB, item.item_id, other)) == OTHER_REVIEW
        assert (await review.agreement(BOB)).reviews == 1
        await review.judge(CARL, "one", "two")
        # Also after the end of the item.
        await review.submit(BOB, item.item_id, given)
        assert await error_of(review.submit(BOB, item.item_id, other)) == OTHER_REVIEW
        assert await error_of(review.submit(DORA, item.item_id, given)) == CLOSED
        await events_of(review, 2)


async def test_removed_item_is_not_found_and_nothing_is_counted(home: Home) -> None:
    """The user withdrew consent while a reviewer worked on the item."""
    async with review_service(home) as review:
        kept = drawn_item(owner=EVE)
        await review.add_items(drawn_item())
        await review.add_items(kept)
        first = await review.next_item(BOB)
        given = review_of(first, "one", "two")
        await review.submit(BOB, first.item_id, given)
        second = await review.next_item(CARL)
        assert second.item_id == first.item_id
        request = review_pb2.RemoveItemsRequest(principals=[principal(ADA)])
        assert (await review.items.RemoveItems(request, timeout=10)).removed == 1
        for caller in (BOB, CARL):
            assert await error_of(review.submit(caller, first.item_id, given)) == MISSING
        assert await error_of(review.resolve(CARL, first.item_id, given)) == MISSING
        skip = review.reviews.SkipItem(
            review_pb2.SkipItemRequest(item_id=first.item_id), timeout=10, metadata=CARL
        )
        assert await error_of(skip) == MISSING
        found = await review.agreement(CARL)
        assert (found.items, found.reviews) == (1, 0)
        assert (await review.next_item(CARL)).item_id == kept.item.item_id
        await events_of(review, 0)


async def test_waiting_events_of_a_removed_item_are_removed(home: Home) -> None:
    async with review_service(home) as review:
        review.peers.feedback.failures = [grpc.StatusCode.UNAVAILABLE] * 1_000
        await review.add_items(drawn_item(), drawn_item(owner=EVE))
        for caller in (BOB, BOB, CARL, CARL):
            await review.judge(caller, "one", "two")
        request = review_pb2.RemoveItemsRequest(principals=[principal(ADA)])
        assert (await review.items.RemoveItems(request, timeout=10)).removed == 1
    async with open_database(home.database_url) as engine:
        waiting = await SqlOutbox(engine).waiting(now_us())
    events = [events_pb2.FeedbackEvent.FromString(row.payload) for row in waiting.due]
    assert [event.principal for event in events] == [principal(EVE)] * 2


async def test_items_of_others_are_not_found(home: Home) -> None:
    """Items of another tenant, and items with words of the reviewer."""
    async with review_service(home) as review:
        drawn = drawn_item()
        await review.add_items(drawn)
        item_id, given = drawn.item.item_id, review_of(drawn.item)
        for caller in (ADA, OTHER_ADA):
            assert await error_of(review.next_item(caller)) == NO_ITEM
            assert await error_of(review.submit(caller, item_id, given)) == MISSING
            assert await error_of(review.resolve(caller, item_id, given)) == MISSING
        await review.judge(BOB, score=1)
        await review.judge(CARL, score=3)
        await review.judge(DORA, score=5)
        for caller in (ADA, OTHER_ADA):
            assert not (await review.disagreements(caller)).disagreements
            assert await error_of(review.resolve(caller, item_id, given)) == MISSING
        assert (await review.agreement(OTHER_ADA)).items == 0
        assert await error_of(review.submit(BOB, UNKNOWN_ID, given)) == MISSING


async def test_item_is_leased_and_as_many_reviewers_work_on_it_as_reviews_are_missing(
    home: Home,
) -> None:
    async with review_service(home) as review:
        await review.add_items(drawn_item())
        await review.add_items(drawn_item())
        found = [await review.next_item(caller) for caller in (BOB, CARL, DORA, EVE)]
        assert [one.item_id == found[0].item_id for one in found] == [True, True, False, False]
        assert await review.next_item(BOB) == found[0]
        await review.submit(BOB, found[0].item_id, review_of(found[0], score=1))
        await review.submit(CARL, found[0].item_id, review_of(found[0], score=5))
        # The third review of the first item, by a reviewer without a lease.
        await review.submit(DORA, found[2].item_id, review_of(found[2]))
        assert (await review.next_item(DORA)).item_id == found[0].item_id


async def test_concurrent_reviewers_get_no_more_leases_than_reviews_are_missing(
    postgres_home: Home,
) -> None:
    async with review_service(postgres_home) as review:
        await review.add_items(drawn_item(), drawn_item())
        callers = [(("x-tw-tenant", "acme"), ("x-tw-user", f"r{number}")) for number in range(8)]
        calls = (review.next_item(caller) for caller in callers)
        found = await asyncio.gather(*calls, return_exceptions=True)
        items = [one.item_id for one in found if isinstance(one, review_pb2.ReviewItem)]
    assert sorted(map(items.count, set(items))) == [2, 2]


async def test_skipped_item_is_left_to_others(home: Home) -> None:
    async with review_service(home) as review:
        await review.add_items(drawn_item())
        item = await review.next_item(BOB)
        for _ in range(2):
            request = review_pb2.SkipItemRequest(item_id=item.item_id)
            await review.reviews.SkipItem(request, timeout=10, metadata=BOB)
        assert await error_of(review.next_item(BOB)) == NO_ITEM
        assert (await review.next_item(CARL)).item_id == item.item_id


async def test_remaining_counts_the_items_of_the_reviewer(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        await review.add_items(*(drawn_item() for _ in range(3)), drawn_item(owner=BOB))
        request = review_pb2.GetNextItemRequest()
        found = await review.reviews.GetNextItem(request, timeout=10, metadata=BOB)
        assert found.remaining == 3
        await review.judge(BOB)
        found = await review.reviews.GetNextItem(request, timeout=10, metadata=BOB)
        assert found.remaining == 2


async def test_answers_come_in_an_order_of_the_reviewer(sqlite_home: Home) -> None:
    """The order differs between reviewers and items, and is the same for each call."""
    texts = ("one", "two", "three", "four")
    async with review_service(sqlite_home, raters=5) as review:
        await review.add_items(drawn_item(*texts))
        callers = (BOB, CARL, DORA, EVE)
        items = [await review.next_item(caller) for caller in callers]
        orders = [tuple(answer.text for answer in item.answers) for item in items]
        assert len(set(orders)) > 1
        assert {frozenset(order) for order in orders} == {frozenset(texts)}
        for item in items:
            assert [answer.answer_id for answer in item.answers] == ["a", "b", "c", "d"]
            assert b"version-" not in item.SerializeToString()
        for caller in callers:
            await review.judge(caller, *texts)
        (exported,) = (await review.exported()).items
    for given in exported.reviews:
        assert {rank.answer_id: rank.rank for rank in given.ranks} == dict(
            zip("abcd", range(1, 5), strict=True)
        )


SCALES = {"correctness": 4, "helpfulness": 4, "clarity": 4, "safety": 4}
BOTH = [{"answer_id": "a", **SCALES}, {"answer_id": "b", **SCALES}]
MALFORMED: list[tuple[str, dict[str, Any]]] = [
    ("review.scores[1].clarity", {"scores": [BOTH[0], BOTH[1] | {"clarity": 6}]}),
    ("review.scores[1].answer_id", {"scores": [BOTH[0], BOTH[0]]}),
    ("review.scores[0].answer_id", {"scores": [BOTH[0] | {"answer_id": "c"}, BOTH[1]]}),
    ("review.scores", {"scores": BOTH[:1]}),
    ("review.ranks[0].answer_id", {"ranks": [{"answer_id": "x", "rank": 1}]}),
    ("review.ranks", {"ranks": [{"answer_id": "a", "rank": 1}]}),
    ("review.written_answer", {"written_answer": "x" * (MAX_CORRECTION_CHARACTERS + 1)}),
    ("review.comment", {"comment": "x" * (MAX_COMMENT_CHARACTERS + 1)}),
    ("review.comment", {"comment": "\0"}),
    ("review", {"scores": [{"answer_id": "a"}, {"answer_id": "b"}]}),
    *(
        (
            "review.ranks",
            {"ranks": [{"answer_id": "a", "rank": one}, {"answer_id": "b", "rank": other}]},
        )
        for one, other in ((0, 1), (1, 3), (2, 2), (2, 3))
    ),
]


async def test_malformed_reviews_are_refused_and_not_stored(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        await review.add_items(drawn_item())
        item = await review.next_item(BOB)
        for field, changes in MALFORMED:
            given = review_pb2.Review(**{"scores": BOTH} | changes)
            assert await error_of(review.submit(BOB, item.item_id, given)) == (*INVALID, field)
        empty = review_pb2.SubmitReviewRequest(item_id=item.item_id)
        error = await error_of(review.reviews.SubmitReview(empty, timeout=10, metadata=BOB))
        assert error == (*INVALID, "review")
        assert (await review.agreement(BOB)).reviews == 0


async def test_zero_scores_equal_ranks_and_longest_texts_are_accepted(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        await review.add_items(drawn_item())
        item = await review.next_item(BOB)
        given = review_pb2.Review(
            scores=[{"answer_id": "a"}, {"answer_id": "b"}],
            ranks=[{"answer_id": "a", "rank": 1}, {"answer_id": "b", "rank": 1}],
            written_answer="ü" * MAX_CORRECTION_CHARACTERS,
            comment="ü" * MAX_COMMENT_CHARACTERS,
        )
        await review.submit(BOB, item.item_id, given)
        (exported,) = (await review.exported()).items
    (stored,) = exported.reviews
    assert (stored.written_answer, stored.comment) == (given.written_answer, given.comment)
    assert [rank.rank for rank in stored.ranks] == [1, 1]


async def test_item_with_one_answer_has_no_ranking(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        await review.add_items(drawn_item("one"))
        item = await review.next_item(BOB)
        given = review_of(item, "one")
        assert await error_of(review.submit(BOB, item.item_id, given)) == (*INVALID, "review.ranks")


async def test_disagreements_come_in_pages_largest_first(home: Home) -> None:
    async with review_service(home, raters=2, further_raters=0) as review:
        items = [drawn_item() for _ in range(3)]
        await review.add_items(*items)
        scores = {item.item.item_id: 3 + number % 3 for number, item in enumerate(items)}
        for caller in (BOB, CARL):
            for _ in items:
                item = await review.next_item(caller)
                score = 1 if caller == BOB else scores[item.item_id]
                await review.submit(caller, item.item_id, review_of(item, score=score))
        found, token = [], ""
        while not found or token:
            page = await review.disagreements(EVE, 1, token)
            found += [one.item.item_id for one in page.disagreements]
            token = page.next_page_token
        assert found == sorted(scores, key=lambda item_id: -scores[item_id])
        assert await error_of(review.disagreements(EVE, 51)) == (*INVALID, "page_size")
        for token in ("x", "1/2", "9999/" + UNKNOWN_ID):
            assert await error_of(review.disagreements(EVE, 1, token)) == (*INVALID, "page_token")


async def test_calls_without_a_user_are_refused(sqlite_home: Home) -> None:
    async with review_service(sqlite_home) as review:
        for call in (review.next_item(()), review.disagreements(()), review.agreement(())):
            assert (await error_of(call))[0] == "UNAUTHENTICATED"
