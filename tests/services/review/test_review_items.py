"""Items of reviewers: addition, limits, export, expiry and erasure."""

import asyncio
import uuid
from pathlib import Path
from typing import Any

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import review_pb2
from uuid_utils import uuid7

from services.contracts.limits import MAX_REQUEST_CHARACTERS, MAX_TEXT_CHARACTERS
from tests.services.review.service import (
    ADA,
    BOB,
    CARL,
    DORA,
    EVE,
    UNKNOWN_ID,
    Home,
    Review,
    drawn_item,
    error_of,
    principal,
    review_of,
    review_service,
)

INVALID = ("INVALID_ARGUMENT", "INVALID_ARGUMENT")
ANSWERS = [review_pb2.ReviewAnswer(answer_id=name, text=name) for name in ("a", "b")]
QUESTION = [chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="q")]


async def test_items_are_added_once(home: Home) -> None:
    async with review_service(home) as review:
        first, second = drawn_item(), drawn_item()
        assert await review.add_items(first, first) == 1
        assert await review.add_items(first, second) == 1
        assert (await review.agreement(BOB)).items == 2
        assert await error_of(review.add_items()) == (*INVALID, "items")
        assert await error_of(review.add_items(*[first] * 101)) == (*INVALID, "items")


async def test_malformed_items_are_refused_and_no_item_of_the_call_is_stored(
    sqlite_home: Home,
) -> None:
    long_text = chat_pb2.HistoryMessage(
        role=chat_pb2.ROLE_USER, text="x" * (MAX_REQUEST_CHARACTERS + 1)
    )
    cases: list[tuple[str, dict[str, Any]]] = [
        ("rule", {"rule": 0}),
        ("rule", {"rule": 9}),
        ("tenant", {"tenant": ""}),
        ("tenant", {"tenant": "a\0"}),
        ("principal", {"principal": "ada"}),
        ("conversation_id", {"conversation_id": ""}),
        ("message_id", {"message_id": UNKNOWN_ID}),
        ("message_ids", {"message_ids": [UNKNOWN_ID]}),
        ("message_ids", {"message_ids": [UNKNOWN_ID, UNKNOWN_ID], "message_id": UNKNOWN_ID}),
        ("message_ids[1]", {"message_ids": [UNKNOWN_ID, "x"], "message_id": UNKNOWN_ID}),
        ("model_versions", {"model_versions": ["v"] * 3}),
        ("model_versions[0]", {"model_versions": ["v" * 129, "v"]}),
        ("arm", {"arm": "a" * 129}),
        *(
            (f"item.{name}", {"item": {"item_id": UNKNOWN_ID, **values}})
            for name, values in [
                ("item_id", {"answers": ANSWERS, "context": QUESTION, "item_id": "x"}),
                ("answers", {"answers": ANSWERS[::-1], "context": QUESTION}),
                ("context", {"answers": ANSWERS}),
                ("context", {"answers": ANSWERS, "context": [long_text]}),
                ("context", {"answers": ANSWERS, "context": QUESTION * 201}),
                (
                    "context[0].role",
                    {"answers": ANSWERS, "context": [chat_pb2.HistoryMessage(text="q")]},
                ),
                (
                    "answers[1].text",
                    {"answers": [ANSWERS[0], {"answer_id": "b", "text": " "}], "context": QUESTION},
                ),
                (
                    "answers[0].text",
                    {
                        "answers": [
                            {"answer_id": "a", "text": "x" * (MAX_TEXT_CHARACTERS + 1)},
                            ANSWERS[1],
                        ],
                        "context": QUESTION,
                    },
                ),
            ]
        ),
    ]
    async with review_service(sqlite_home) as review:
        for field, changes in cases:
            call = review.add_items(drawn_item(), drawn_item(**changes))
            assert await error_of(call) == (*INVALID, f"items[1].{field}")
        assert (await review.agreement(BOB)).items == 0
        for principals in ([], ["x"], [principal(ADA)] * 1_001):
            request = review_pb2.RemoveItemsRequest(principals=principals)
            error = await error_of(review.items.RemoveItems(request, timeout=10))
            assert error[:2] == INVALID


async def test_items_are_removed_by_id_with_their_reviews(home: Home) -> None:
    """Items of a deleted conversation; other items of the user stay."""
    async with review_service(home) as review:
        deleted, kept = drawn_item(), drawn_item()
        await review.add_items(deleted)
        await review.judge(BOB)
        await review.add_items(kept)
        ids = [deleted.item.item_id, UNKNOWN_ID]
        request = review_pb2.RemoveItemsRequest(item_ids=ids)
        for removed in (1, 0):
            assert (await review.items.RemoveItems(request, timeout=10)).removed == removed
        found = await review.agreement(BOB)
        assert (found.items, found.reviews) == (1, 0)
        assert (await review.next_item(BOB)).item_id == kept.item.item_id
        for ids, field in ((["x"], "item_ids[0]"), ([UNKNOWN_ID] * 1_001, "item_ids")):
            request = review_pb2.RemoveItemsRequest(item_ids=ids)
            error = await error_of(review.items.RemoveItems(request, timeout=10))
            assert error == (*INVALID, field)


async def test_reviews_are_exported_in_pages(home: Home) -> None:
    async with review_service(home) as review:
        items = [drawn_item() for _ in range(3)]
        for item in items:
            await review.add_items(item)
        await review.add_items(drawn_item(owner=BOB))
        for _ in items:
            await review.judge(BOB)
        found, token, pages = [], "", 0
        while not pages or token:
            page = await review.exported(2, token)
            found += page.items
            token, pages = page.next_page_token, pages + 1
        assert pages == 2
        assert [one.item for one in found] == items
        assert not any(one.complete or one.HasField("resolution") for one in found)
        assert await error_of(review.exported(101)) == (*INVALID, "page_size")
        assert await error_of(review.exported(1, "x")) == (*INVALID, "page_token")


async def test_pages_of_long_items_fit_a_message(sqlite_home: Home) -> None:
    """Five items with the longest answers, of four bytes a character, have 4.6 MB."""
    text = "\U0001f600" * MAX_TEXT_CHARACTERS
    async with review_service(sqlite_home) as review:
        ids = []
        for _ in range(5):
            item = drawn_item(*[text] * 6)
            item.item.context[0].text = text
            ids.append(item.item.item_id)
            await review.add_items(item)
            await review.judge(BOB)
        found, token = [], ""
        while not found or token:
            page = await review.exported(0, token)
            found += [one.item.item.item_id for one in page.items]
            token = page.next_page_token
    assert found == ids


async def test_old_items_are_removed_with_their_reviews(home: Home) -> None:
    async with review_service(home, item_days=1e-6, expiry_seconds=0.05) as review:
        await review.add_items(drawn_item())
        async with asyncio.timeout(10):
            while (await review.agreement(BOB)).items:
                await asyncio.sleep(0.05)


def item_of(owner: Any, answer_id: str) -> review_pb2.DrawnItem:
    """Return an item with one answer of this id."""
    return drawn_item("one", owner=owner, message_id=answer_id, message_ids=[answer_id])


async def until_applied(review: Review, condition: Any) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.05)


async def test_items_of_an_erased_user_disappear_and_earlier_ones_are_not_added(
    home: Home,
) -> None:
    async with review_service(home, erasure_seconds=0.05) as review:
        before, kept = item_of(ADA, str(uuid7())), item_of(EVE, str(uuid7()))
        await review.add_items(before, kept)
        await review.judge(BOB, written="by Bob")
        await review.judge(BOB, written="by Bob")
        review.peers.feedback.erase(ADA, 1)

        async def is_gone() -> bool:
            return (await review.agreement(BOB)).items == 1

        await until_applied(review, is_gone)
        (exported,) = (await review.exported()).items
        assert exported.item == kept
        # A draw that read the conversation before the erasure; ids without a time are old.
        assert await review.add_items(before, item_of(ADA, str(uuid.uuid4()))) == 0
        # The answers of later conversations are new data.
        assert await review.add_items(item_of(ADA, str(uuid7()))) == 1


async def test_reviews_of_an_erased_reviewer_disappear(home: Home) -> None:
    """Waiting items return to the queue, and the other reviews remain."""
    async with review_service(home, erasure_seconds=0.05) as review:
        waiting, complete = drawn_item(), drawn_item(owner=EVE)
        await review.add_items(waiting)
        for caller, score in ((BOB, 1), (CARL, 3), (DORA, 5)):
            await review.judge(caller, score=score)
        await review.add_items(complete)
        for caller in (BOB, CARL):
            await review.judge(caller)
        assert len((await review.disagreements(EVE)).disagreements) == 1
        review.peers.feedback.erase(BOB, 1)

        async def is_gone() -> bool:
            return (await review.agreement(CARL)).reviews == 3

        await until_applied(review, is_gone)
        exported = (await review.exported()).items
        assert [list(one.raters) for one in exported] == [
            [principal(CARL), principal(DORA)],
            [principal(CARL)],
        ]
        assert [one.complete for one in exported] == [False, True]
        assert not (await review.disagreements(EVE)).disagreements
        # The erased reviewer is a new one.
        assert (await review.next_item(BOB)).item_id == waiting.item.item_id


async def test_erased_words_are_in_no_byte_of_the_file(sqlite_home: Home) -> None:
    folder = sqlite_home.directory / "state"
    words = ("xylophone-question", "xylophone-answer", "xylophone-written", "xylophone-player")
    player = (("x-tw-tenant", "acme"), ("x-tw-user", words[3]))

    def stored(text: str) -> bool:
        return any(text.encode() in file.read_bytes() for file in files(folder))

    async with review_service(sqlite_home, erasure_seconds=0.05) as review:
        item = item_of(ADA, str(uuid7()))
        item.item.context[0].text = words[0]
        item.item.answers[0].text = words[1]
        await review.add_items(item)
        await review.judge(player, written=words[2])
        assert all(stored(word) for word in words)
        review.peers.feedback.erase(ADA, 1)
        async with asyncio.timeout(10):
            while any(stored(word) for word in words):
                await asyncio.sleep(0.05)


def files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.is_file()]


async def test_names_of_reviewers_are_stored_until_the_item_is_complete(sqlite_home: Home) -> None:
    folder = sqlite_home.directory / "state"
    player = (("x-tw-tenant", "acme"), ("x-tw-user", "xylophone-player"))

    def is_stored() -> bool:
        return any(b"xylophone-player" in file.read_bytes() for file in files(folder))

    async with review_service(sqlite_home) as review:
        await review.add_items(drawn_item())
        item = await review.next_item(player)
        await review.submit(player, item.item_id, review_of(item, "one", "two"))
        assert is_stored()
        await review.judge(CARL, "one", "two")
        async with asyncio.timeout(10):
            while is_stored():
                await asyncio.sleep(0.05)
