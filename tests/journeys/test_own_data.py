"""Control of users over their data: consent, deletion of a conversation, and complete erasure."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path

from services.chassis.identity import Caller
from services.contracts.identifiers import ERASED, turn_event_id
from services.feedback.compaction.compaction import Compaction
from services.feedback.compaction.compactors import Compactors
from services.feedback.compaction.schedule import compact_all
from services.feedback.events import Stream
from services.feedback.lake import parquet
from services.feedback.lake.ledger import Ledger
from services.feedback.lake.object_store import Directory
from services.feedback.lake.readable_segments import ReadableSegment, read_segment
from services.feedback.principals.erasures import Erasures
from services.feedback.store.database import open_database
from tests.journeys.client import Client
from tests.journeys.drawn_items import add_item
from tests.journeys.rows import wait_for_row
from tests.journeys.stack import Stack
from tests.services.feedback.compacted import OPTIONS

CANARY = "zanzibarquetzal"
REVIEWER = "account,review"


def user(stack: Stack, name: str) -> Client:
    return Client(stack.http, stack.make_keys(name)[0])


def files_with(stack: Stack, word: str) -> set[str]:
    """Return the names of all state files with a word: databases with WAL, spool, objects, logs."""
    found = set()
    for file in stack.state.rglob("*"):
        if (
            file.is_file()
            and "models" not in file.relative_to(stack.state).parts
            and _holds(file, word)
        ):
            found.add(file.name)
    return found


def _holds(file: Path, word: str) -> bool:
    try:
        return word.encode() in file.read_bytes()
    except FileNotFoundError:
        return False


def test_consent_is_stored(stack: Stack) -> None:
    ada = user(stack, "consenting")
    status, found = ada.call("GET", "/api/consent")
    assert (status, found) == (200, {"consent": {"training": True}})
    for training in (False, True, False):
        assert ada.call("PUT", "/api/consent", {"training": training})[0] == 200
        status, found = ada.call("GET", "/api/consent")
        assert (status, found["consent"]["training"]) == (200, training)
    assert user(stack, "another").call("GET", "/api/consent")[1] == {"consent": {"training": True}}


def test_erasure_leaves_no_byte_of_the_user(stack: Stack) -> None:
    ada, bob = user(stack, "leaving"), user(stack, "staying")
    mine, theirs = ada.ask(f"What is {CANARY}?", skipEnhancer=True), bob.ask("hello")
    comment = {
        "messageId": mine[0]["messageId"],
        "requestId": str(uuid.uuid4()),
        "thumb": {"up": False, "comment": CANARY},
    }
    status, said = ada.call("POST", "/api/feedback", comment)
    assert status == 200, said
    wait_for_row(stack, "event_id", said["eventId"])
    wait_for_row(stack, "message_id", mine[0]["messageId"])
    # Proof of the test itself: the word existed, and only in the conversation database.
    assert {name.partition(".db")[0] for name in files_with(stack, CANARY)} == {"sessions"}

    status, erased = ada.call("POST", "/api/erasure")
    assert (status, erased["removedConversations"]) == (200, 1)
    assert files_with(stack, CANARY) == set()
    assert ada.call("GET", f"/api/conversations/{mine[0]['started']['conversationId']}")[0] == 404
    assert ada.call("GET", f"/api/messages/{mine[0]['messageId']}/events")[0] == 404
    assert bob.conversation(theirs[0]["started"]["conversationId"])[-1]["text"]
    status, found = ada.call("GET", f"/api/erasure/{erased['erasure']['erasureId']}")
    assert (status, found["erasure"]["shredTime"]) == (200, erased["erasure"]["shredTime"])
    assert bob.call("GET", f"/api/erasure/{erased['erasure']['erasureId']}")[0] == 404
    assert ada.ask("hello again")[-1]["completed"]


def test_erasure_of_user_and_reviewer_removes_items_and_reviews(stack: Stack) -> None:
    """The words of both exist in the review database until it reads the list of erasures."""
    tenant, words = f"judged-{uuid.uuid4().hex[:8]}", ("quokkaerased", "quokkawritten")
    leaving, staying = Caller(tenant, "leaving"), Caller(tenant, "staying")
    clients = {
        name: Client(stack.http, stack.make_keys(name, tenant=tenant, scopes=REVIEWER)[0])
        for name in ("leaving", "rater")
    }
    rater = clients["rater"]
    gone = add_item(stack, leaving, "one", question=f"What is a {words[0]}?")
    stays = add_item(stack, staying, "one")
    for item_id in (gone, stays):
        status, found = rater.call("GET", "/api/reviews/next")
        assert (status, found["item"]["itemId"]) == (200, item_id)
        scores = [{"answerId": "a", "correctness": 4}]
        review = {"scores": scores, "writtenAnswer": f"It is a {words[1]}."}
        assert rater.call("POST", f"/api/reviews/{item_id}", {"review": review}) == (200, {})
    assert all(files_with(stack, word) == {"review.db"} for word in words)

    assert clients["leaving"].call("POST", "/api/erasure")[0] == 200
    wait_until(lambda: rater.call("POST", f"/api/reviews/{gone}/skip")[0] == 404)
    assert files_with(stack, words[0]) == set()
    assert rater.call("GET", "/api/reviews/agreement")[1]["reviews"] == "1"
    assert rater.call("POST", "/api/erasure")[0] == 200
    wait_until(lambda: rater.call("GET", "/api/reviews/agreement")[1]["reviews"] == "0")
    assert files_with(stack, words[1]) == set()
    # The other user's item waits for a review again.
    assert rater.call("GET", "/api/reviews/next")[1]["item"]["itemId"] == stays


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the erasure was not applied"
        time.sleep(0.2)


def test_owner_of_a_clone_may_review(stack: Stack) -> None:
    owner = Client(stack.http, stack.owner_key)
    assert "review" in owner.call("GET", "/api/account")[1]["scopes"]
    assert owner.call("GET", "/api/reviews/agreement")[0] == 200
    assert user(stack, "usual").call("GET", "/api/reviews/next")[1]["error"]["code"] == (
        "scope_missing"
    )


def test_deleted_conversation_disappears_from_reads(stack: Stack) -> None:
    ada = user(stack, "tidying")
    gone, stays = (ada.ask(text)[0] for text in ("hello", "good morning"))
    for turn in (gone, stays):
        wait_for_row(stack, "event_id", ada.thumb(turn["messageId"], up=True))
        wait_for_row(stack, "message_id", turn["messageId"])
    assert ada.call("DELETE", f"/api/conversations/{gone['started']['conversationId']}")[0] == 200
    wait_for_row(stack, "event_id", turn_event_id(gone["messageId"], ERASED))

    engine = open_database(f"sqlite:///{stack.state}/feedback/ledger.db")
    ledger, store = Ledger(engine), Directory(stack.state / "objects")
    # Next to the running service, as the command does.
    compaction = Compaction(ledger, Compactors(engine), store, Erasures(engine), OPTIONS)
    assert compact_all(compaction) == 0
    found = {
        stream: {
            (row["message_id"], row.get("erased"))
            for item in ledger.readable_segments(stream)
            for row in rows_of(store, item)
        }
        for stream in Stream
    }
    engine.dispose()
    about = (gone["messageId"], stays["messageId"])
    assert [found[Stream.FEEDBACK] & {(one, None)} for one in about] == [
        set(),
        {(stays["messageId"], None)},
    ]
    assert [found[Stream.TURNS] & {(one, False)} for one in about] == [
        set(),
        {(stays["messageId"], False)},
    ]
    assert (gone["messageId"], True) in found[Stream.TURNS]


def rows_of(store: Directory, item: ReadableSegment) -> list[parquet.Row]:
    return parquet.to_rows(read_segment(store, item))


def test_erasure_during_an_outage_is_unavailable_and_completed_later(stack: Stack) -> None:
    """Uses the shared system, which is restored before the end of the test."""
    ada = user(stack, "unlucky")
    ada.ask("hello")
    stack.kill("feedback")
    statuses = []
    end = time.monotonic() + 60
    while not statuses or statuses[-1] != 200:
        assert time.monotonic() < end, statuses
        status, answer = ada.call("POST", "/api/erasure")
        assert status == 200 or (status, answer["error"]["code"]) == (503, "erasure_unfinished"), (
            answer
        )
        statuses.append(status)
    assert statuses[0] == 503
    assert ada.call("GET", "/api/conversations")[1]["conversations"] == []
