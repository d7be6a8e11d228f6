"""A draw from a feedback table with sealed texts: consent, erasure, personal data, repetition."""

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from thumbwheel.chat.v1 import chat_pb2

from tests.training.feedback_log import FeedbackLog, principal_of, uid
from tests.training.reviews.queue import NOW_US, Queue, columns
from training.data.feedback.catalogue import Directory
from training.reviews import draw as drawing
from training.reviews.draw import DrawResult, draw
from training.reviews.items import MAX_ANSWER_CHARACTERS
from training.reviews.rules import DrawConfig, Rule

# Must never change: items would be drawn again.
NAMESPACE = uuid.UUID("2485287a-2a94-5a39-ae43-cb523e1b581b")


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    return FeedbackLog(tmp_path / "objects", sealing=True)


@pytest.fixture
def queue() -> Queue:
    return Queue()


def chat(log: FeedbackLog, user: str, *names: str, **changes: Any) -> None:
    """Append an answer to a question of its own for each name."""
    for name in names:
        log.turn(name, user, f"question {name}", f"answer {name}", **columns(**changes))


def drawn(log: FeedbackLog, queue: Queue, tmp_path: Path, **settings: Any) -> DrawResult:
    log.commit()
    return draw(log, Directory(tmp_path / "objects"), queue, DrawConfig(**settings), NOW_US)


def test_an_item_has_the_ids_and_versions_of_its_answers(
    log: FeedbackLog, queue: Queue, tmp_path: Path
) -> None:
    shared = {"conversation_id": uid("conversation")}
    for name, version in (("a", "nano-0"), ("b", "nano-1")):
        more = {"model_version": version, "task": "code", "arm": "candidate"}
        log.turn(name, "ann", "hi", f"answer {name}", **columns(**shared | more))
    result = drawn(log, queue, tmp_path)
    ((item,),) = queue.requests
    name = f"new_version/{uid('b')}/acme"
    assert item.item.item_id == str(uuid.uuid5(NAMESPACE, name))
    assert [one.text for one in item.item.answers] == ["answer b", "answer a"]
    assert [one.answer_id for one in item.item.answers] == ["a", "b"]
    assert [*item.message_ids] == [uid("b"), uid("a")]
    assert [*item.model_versions] == ["nano-1", "nano-0"]
    assert [(one.role, one.text) for one in item.item.context] == [(chat_pb2.ROLE_USER, "hi")]
    assert item.item.task == chat_pb2.TASK_CODE
    assert (item.tenant, item.principal, item.message_id, item.arm, item.conversation_id) == (
        "acme",
        principal_of("ann"),
        uid("b"),
        "candidate",
        uid("conversation"),
    )
    assert result.added == Counter({Rule.NEW_VERSION: 1})


def test_each_draw_adds_new_items_up_to_the_amount_and_none_twice(
    log: FeedbackLog, queue: Queue, tmp_path: Path
) -> None:
    chat(log, "ann", *(f"a{n}" for n in range(7)))
    chat(log, "bob", *(f"b{n}" for n in range(7)), tenant="umbrella")
    amounts = {Rule.RANDOM: 5}
    sizes = []
    for _ in range(3):
        sizes.append(drawn(log, queue, tmp_path, amounts=amounts).added[Rule.RANDOM])
    # Tenants have their own amounts.
    assert sizes == [10, 4, 0]
    assert Counter(one.tenant for one in queue.items.values()) == {"acme": 7, "umbrella": 7}
    assert len(queue.names()) == 14
    # The first seed again, on an empty queue.
    again = Queue()
    drawn(log, again, tmp_path, amounts=amounts)
    assert again.requests[0] == queue.requests[0]
    other = Queue()
    drawn(log, other, tmp_path, amounts=amounts, seed=1)
    assert other.names() != again.names()


def test_rule_without_amount_draws_nothing(log: FeedbackLog, queue: Queue, tmp_path: Path) -> None:
    chat(log, "ann", "a")
    assert not drawn(log, queue, tmp_path, amounts={Rule.RANDOM: 0}).added.total()
    assert queue.requests == []


def test_only_words_of_users_with_consent_are_drawn_and_others_are_removed(
    log: FeedbackLog, queue: Queue, tmp_path: Path
) -> None:
    for user in ("ann", "bob", "carl", "dora"):
        chat(log, user, user)
    assert drawn(log, queue, tmp_path).added[Rule.RANDOM] == 4
    log.forbidden.add("ann")
    log.strangers.add("bob")
    log.erase("carl")
    result = drawn(log, queue, tmp_path)
    assert queue.names() == {uid("dora")}
    assert (result.removed, result.added.total()) == (3, 0)
    assert result.left_out == {"no_consent": 2, "erased": 1}
    # Consent is back.
    log.forbidden.clear()
    assert drawn(log, queue, tmp_path).added[Rule.RANDOM] == 1
    assert queue.names() == {uid("ann"), uid("dora")}


def test_later_items_of_an_erased_user_stay(log: FeedbackLog, queue: Queue, tmp_path: Path) -> None:
    chat(log, "ann", "before")
    log.erase("ann")
    chat(log, "ann", "after")
    for _ in range(2):
        drawn(log, queue, tmp_path)
        assert queue.names() == {uid("after")}
    assert principal_of("ann") not in queue.removed
    # All data of another user are gone, also from the table.
    log.erase("eve")
    drawn(log, queue, tmp_path)
    assert principal_of("eve") in queue.removed


def test_items_of_a_deleted_conversation_are_removed(
    log: FeedbackLog, queue: Queue, tmp_path: Path
) -> None:
    chat(log, "ann", "kept", "deleted")
    drawn(log, queue, tmp_path)
    erased = {"event_id": uid("deletion"), "erased": True}
    log.turn("deleted", "ann", [], "", **columns(**erased))
    result = drawn(log, queue, tmp_path)
    assert queue.names() == {uid("kept")}
    assert (result.removed, result.left_out) == (1, {"turn_erased": 1})


def test_personal_data_are_replaced_as_in_training_data(
    log: FeedbackLog, queue: Queue, tmp_path: Path
) -> None:
    secret = "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8"
    asked = [
        ("system", f"Help is at help@desk.example. The key {secret} is new."),
        ("user", "I am ann@home.example, call me or help@desk.example"),
    ]
    log.turn("a", "ann", asked, "ann@home.example is noted, bob@home.example too", **columns())
    result = drawn(log, queue, tmp_path)
    (item,) = queue.items.values()
    assert [one.text for one in item.item.context] == [
        "Help is at help@desk.example. The key <SECRET_1> is new.",
        "I am <EMAIL_1>, call me or help@desk.example",
    ]
    assert item.item.answers[0].text == "<EMAIL_1> is noted, <EMAIL_2> too"
    assert result.replaced == {"email": 3, "secret": 1}
    for word in ("home.example", secret):
        assert word.encode() not in item.SerializeToString()


def test_counts_name_no_user_and_no_text(log: FeedbackLog, queue: Queue, tmp_path: Path) -> None:
    chat(log, "ann", "xylophone", tenant="secret-tenant")
    chat(log, "bob", "other", tenant="secret-tenant")
    log.forbidden.add("bob")
    text = drawn(log, queue, tmp_path).text()
    assert "left out: no_consent 1" in text.splitlines()
    assert ["random", "1", "1"] in [line.split() for line in text.splitlines()]
    for word in ("xylophone", "secret-tenant", principal_of("ann"), uid("xylophone")):
        assert word not in text


def test_items_that_the_service_would_refuse_are_left_out(
    log: FeedbackLog, queue: Queue, tmp_path: Path
) -> None:
    chat(log, "ann", "short")
    log.turn("long", "ann", "hi", "x" * (MAX_ANSWER_CHARACTERS + 1), **columns())
    talk = [("user", "hi"), ("assistant", "hello")] * 100 + [("user", "hi")]
    log.turn("many", "ann", talk, "hello", **columns())
    log.turn("context", "ann", [("user", "x" * 131_073)], "hello", **columns())
    result = drawn(log, queue, tmp_path)
    assert queue.names() == {uid("short")}
    assert result.left_out == {"too_long": 3}


def test_requests_keep_the_limits_of_the_service(
    log: FeedbackLog, queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat(log, "ann", *(f"a{n}" for n in range(9)))
    monkeypatch.setattr(drawing, "MAX_ITEMS", 4)
    assert drawn(log, queue, tmp_path, amounts={Rule.RANDOM: 9}).added[Rule.RANDOM] == 9
    assert [len(items) for items in queue.requests] == [4, 4, 1]
    size = max(one.ByteSize() for one in queue.items.values())
    monkeypatch.setattr(drawing, "MAX_BYTES", 3 * size)
    small = Queue()
    assert drawn(log, small, tmp_path, amounts={Rule.RANDOM: 9}).added[Rule.RANDOM] == 9
    assert all(sum(one.ByteSize() for one in items) <= 3 * size for items in small.requests)
    assert len(small.items) == 9
