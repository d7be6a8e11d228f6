"""Rules of the draw: which answers are selected, in which order, and what is left out."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.support.errors import refused
from tests.training.feedback_log import principal_of, uid
from tests.training.reviews.queue import NOW_US, answered
from training.data.chat import Message
from training.data.feedback.events import (
    Feedback,
    FeedbackKind,
    FinishReason,
    RankedAnswer,
    Turn,
    Withheld,
)
from training.data.feedback.judgements import last_revisions
from training.data.feedback.sources import Source
from training.errors import ConfigError
from training.reviews.rules import DrawConfig, Rule, Selection, select


def thumb(name: str, user: str, up: bool) -> Feedback:
    return Feedback(
        (0, 2, 0),
        uid(f"thumb {name} {user}"),
        principal_of(user),
        uid(name),
        FeedbackKind.THUMB,
        up=up,
    )


def vote(user: str, *answers: tuple[str, int], source: Source = Source.ARENA) -> Feedback:
    return Feedback(
        (0, 2, 0),
        uid(f"vote {answers} {user}"),
        principal_of(user),
        uid(answers[0][0]),
        FeedbackKind.RANKING,
        ranked=tuple(RankedAnswer(rank, uid(name)) for name, rank in answers),
        source=source,
    )


def selected(
    turns: Sequence[Turn], feedback: Sequence[Feedback] = (), **settings: Any
) -> Selection:
    return select(feedback, last_revisions(turns, []), DrawConfig(**settings), NOW_US)


def drawn(selection: Selection, tenant: str = "acme") -> dict[str, set[str]]:
    """Return the ids of the drawn answers by rule."""
    return {
        rule.value: {one.turn.message_id for one in candidates}
        for (owner, rule), candidates in selection.candidates.items()
        if owner == tenant
    }


def test_each_rule_selects_its_answers() -> None:
    turns = [
        answered("first", days=9),
        answered("redacted", guard_category="mail"),
        answered("refused", finish=FinishReason.OUTPUT_BLOCKED),
        answered("unasked", finish=FinishReason.INPUT_BLOCKED),
        answered("liked", asked="hi", answer="hello"),
        answered("disliked", "bob", asked="hi", answer="hello ", at=1),
        answered("new", model_version="nano-1"),
    ]
    thumbs = [thumb("liked", "ann", True), thumb("disliked", "bob", False)]
    found = selected(turns, thumbs)
    assert drawn(found) == {
        "blocked": {uid("redacted"), uid("refused"), uid("unasked")},
        "disagreement": {uid("liked")},
        "new_version": {uid("new")},
        "random": {uid("first")},
    }
    # Both users asked the same, and the oldest conversation stands for the question.
    assert found.left_out == {"equal_question": 1}


def test_equal_questions_of_conversations_have_one_item_of_the_first_rule() -> None:
    turns = [
        answered("old", days=9, asked="hi"),
        answered("new", "bob", "hi", model_version="nano-1", at=1),
        answered("again", "eve", "hi", model_version="nano-1", at=2),
        answered("newer", "eve", "hi", model_version="nano-2", at=3),
        answered("other", days=9, asked="who?"),
        answered("blocked", "bob", "who?", model_version="nano-1", guard_category="mail", at=4),
        answered("unblocked", "eve", "who?", model_version="nano-1", at=5),
    ]
    found = selected(turns)
    assert drawn(found) == {
        "blocked": {uid("blocked")},
        "new_version": {uid("new"), uid("newer")},
    }
    assert found.left_out == {"equal_question": 4}


def test_models_of_other_providers_are_no_new_versions() -> None:
    turns = [
        answered("first", days=9),
        answered("rival", model_version="external.rival"),
        answered("new", model_version="nano-1"),
    ]
    assert drawn(selected(turns)) == {
        "new_version": {uid("new")},
        "random": {uid("first"), uid("rival")},
    }


def test_a_question_is_drawn_by_the_first_rule_that_applies_to_an_answer() -> None:
    together = {"asked": "hi", "conversation_id": uid("conversation")}
    turns = [
        answered("old", days=9),
        answered("plain", **together),
        answered("new", model_version="nano-1", at=1, **together),
        answered("blocked", guard_category="mail", at=2, **together),
    ]
    found = selected(turns)
    assert drawn(found) == {"blocked": {uid("blocked")}, "random": {uid("old")}}
    assert found.left_out == {"other_answer_of_question": 2}


@pytest.mark.parametrize(
    ("feedback", "disputed"),
    [
        ([thumb("a", "ann", True), thumb("b", "bob", False)], {"a"}),
        ([thumb("a", "ann", True), thumb("b", "bob", True)], set()),
        # Two opinions of one user, and a thumb on another user's answer.
        ([thumb("a", "ann", True), thumb("e", "ann", False)], set()),
        ([thumb("a", "ann", True), thumb("a", "bob", False)], set()),
        ([vote("ann", ("a", 1), ("c", 1))], {"a"}),
        ([vote("ann", ("a", 1), ("c", 2))], set()),
        ([vote("ann", ("a", 1), ("c", 2)), vote("bob", ("d", 1), ("b", 2))], {"a"}),
        ([vote("ann", ("a", 1), ("c", 2)), vote("bob", ("b", 1), ("d", 2))], set()),
        # Reviewers are not users.
        (
            [
                thumb("a", "ann", True),
                replace(thumb("b", "bob", False), rater=principal_of("rae")),
            ],
            set(),
        ),
        ([vote("ann", ("a", 1), ("c", 1), source=Source.RANKING)], set()),
    ],
)
def test_users_disagree_by_thumbs_and_battles(
    feedback: Sequence[Feedback], disputed: set[str]
) -> None:
    """Ann has the answers a, c and e to the question, Bob has b and d; a, b and e are equal."""
    turns = [
        answered(name, user, "hi", answer=text, at=at, conversation_id=uid(user))
        for at, (name, user, text) in enumerate(
            [
                ("a", "ann", "yes"),
                ("c", "ann", "no"),
                ("b", "bob", "yes"),
                ("d", "bob", "no"),
                ("e", "ann", "yes"),
            ]
        )
    ]
    found = drawn(selected(turns, feedback)).get("disagreement", set())
    assert found == {uid(name) for name in disputed}


def test_users_of_different_tenants_do_not_disagree() -> None:
    turns = [
        answered("a", "ann", "hi", answer="yes"),
        answered("b", "bob", "hi", answer="yes", tenant="umbrella"),
    ]
    found = selected(turns, [thumb("a", "ann", True), thumb("b", "bob", False)])
    assert drawn(found) == {"random": {uid("a")}}
    assert drawn(found, "umbrella") == {"random": {uid("b")}}


def test_thumbs_on_a_cached_copy_count_and_the_copy_is_not_drawn() -> None:
    turns = [
        answered("a", "ann", "hi", answer="yes"),
        answered("b", "bob", "hi", answer="yes", cached=True, at=1),
        answered("c", "carl", "hi", answer="yes", cached=True, at=2),
    ]
    found = selected(turns, [thumb("b", "bob", True), thumb("c", "carl", False)])
    assert drawn(found) == {"disagreement": {uid("a")}}
    assert found.left_out == {"cached_answer": 2}


def test_a_version_is_new_for_some_days_and_the_first_version_never() -> None:
    turns = [
        answered("oldest", days=20),
        answered("begin", days=10, model_version="nano-1"),
        answered("within", days=5, model_version="nano-1"),
        answered("after", days=4, model_version="nano-1"),
        answered("nameless", model_version=""),
    ]
    assert drawn(selected(turns, new_version_days=5.0)) == {
        "new_version": {uid("begin"), uid("within")},
        "random": {uid("oldest"), uid("after"), uid("nameless")},
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"erased": True, "context": (), "answer": ""}, "turn_erased"),
        ({"withheld": Withheld.NO_CONSENT, "context": (), "answer": ""}, "no_consent"),
        ({"withheld": Withheld.ERASED, "context": (), "answer": ""}, "erased"),
        ({"days": 30.1}, "too_old"),
        ({"cached": True}, "cached_answer"),
        ({"answer": " \n"}, "empty_text"),
        ({"context": ()}, "empty_text"),
        ({"tenant": ""}, "empty_text"),
        ({"finish": FinishReason.LENGTH}, "answer_incomplete"),
        ({"finish": FinishReason.CANCELLED}, "answer_incomplete"),
    ],
)
def test_other_answers_are_left_out_with_the_reason(changes: dict[str, Any], reason: str) -> None:
    found = selected([answered("kept"), answered("left", **changes)])
    assert drawn(found) == {"random": {uid("kept")}}
    assert found.left_out == {reason: 1}


def test_an_item_has_the_comparable_answers_of_its_conversation() -> None:
    together = {"asked": "hi", "conversation_id": uid("conversation")}
    turns = [
        answered("first version", days=25),
        answered("second version", days=24, model_version="nano-1"),
        answered("a", **together),
        answered("equal", answer="answer a\n", at=1, **together),
        answered("b", at=2, **together),
        answered("other", at=3, model_version="nano-1", **together),
        answered("edited", at=4, **together | {"asked": "hello"}),
        answered("elsewhere", "bob", "hi", at=5),
    ]
    found = selected(turns)
    answers = {
        one.turn.message_id: [answer.message_id for answer in one.answers]
        for one in found.candidates["acme", Rule.RANDOM]
    }
    # The shown answer is first, then answers of other versions.
    assert answers[uid("a")] == [uid("a"), uid("other"), uid("b")]
    assert answers[uid("edited")] == [uid("edited")]
    assert found.left_out == {"other_answer_of_question": 3, "equal_question": 1}


def test_an_item_has_at_most_six_answers() -> None:
    turns = [answered(f"a{n}", asked="hi", at=n, conversation_id=uid("c")) for n in range(8)]
    ((item,),) = selected(turns).candidates.values()
    assert [one.message_id for one in item.answers] == [uid(f"a{n}") for n in range(6)]


def test_a_blocked_answer_is_compared_with_no_other_blocked_answer() -> None:
    together = {"asked": "hi", "conversation_id": uid("c")}
    turns = [
        answered("first", guard_category="mail", **together),
        answered("second", guard_category="mail", at=1, **together),
        answered("plain", at=2, **together),
    ]
    ((item,),) = selected(turns).candidates.values()
    assert [one.message_id for one in item.answers] == [uid("first"), uid("plain")]


def test_order_depends_on_the_seed_and_users_take_turns() -> None:
    turns = [answered(f"ann {n}") for n in range(20)]
    turns += [answered(f"bob {n}", "bob") for n in range(2)]

    def order(given: Sequence[Turn], seed: int) -> list[tuple[str, str]]:
        ((candidates),) = selected(given, seed=seed).candidates.values()
        return [(one.turn.principal, one.turn.message_id) for one in candidates]

    assert order(turns, 1) == order(turns[::-1], 1)
    assert order(turns, 1) != order(turns, 2)
    users = [principal for principal, _ in order(turns, 1)]
    assert sorted(users[:4]) == sorted([principal_of("ann"), principal_of("bob")] * 2)


def test_same_context_means_all_messages() -> None:
    together = {"conversation_id": uid("c")}
    longer = (Message("system", "be brief"), Message("user", "hi"))
    turns = [
        answered("a", asked="hi", **together),
        answered("b", context=longer, at=1, **together),
    ]
    found = selected(turns)
    assert drawn(found) == {"random": {uid("a"), uid("b")}}
    assert all(len(one.answers) == 1 for some in found.candidates.values() for one in some)


def test_settings_out_of_range_are_refused() -> None:
    with refused(ConfigError, field="random", reason="OUT_OF_RANGE", limit="at least 0"):
        DrawConfig(amounts={Rule.RANDOM: -1})
    for name in ("days", "new_version_days"):
        with refused(ConfigError, field=name, reason="OUT_OF_RANGE", limit="above 0"):
            DrawConfig(**{name: 0.0})
