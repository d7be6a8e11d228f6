"""What the model is given: newest first within the budget, system always, refused and unanswered turns never."""

import pytest

from services.chassis.errors import InvalidArgumentError
from services.session.context import Budget, as_said, select_context
from services.session.limits import MAX_TEXT_CHARACTERS
from services.session.message import FinishReason, Message, Role, Said

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT


def path(*entries: tuple[Role, str] | tuple[Role, str, FinishReason], tokens: int = 10) -> list[Message]:
    """A path from the root; each message has the same number of tokens."""
    found: list[Message] = []
    for number, entry in enumerate(entries):
        role, text = entry[0], entry[1]
        usual = FinishReason.STOP if role is ASSISTANT else FinishReason.OPEN
        found.append(
            Message(
                id=f"m{number}",
                conversation_id="c",
                parent_id=f"m{number - 1}" if number else "",
                role=role,
                text=text,
                position=number,
                tokens=tokens,
                create_us=number,
                finish_reason=entry[2] if len(entry) == 3 else usual,
            )
        )
    return found


def chosen(messages: list[Message], tokens: int, overhead: int = 0) -> list[str]:
    return [message.id for message in select_context(messages, Budget(tokens, overhead)).messages]


TALK = path((SYSTEM, "be brief"), (USER, "one"), (ASSISTANT, "1"), (USER, "two"), (ASSISTANT, "2"), (USER, "three"))


def test_everything_is_chosen_if_it_fits() -> None:
    assert chosen(TALK, 60) == ["m0", "m1", "m2", "m3", "m4", "m5"]


def test_the_oldest_go_first_and_the_system_message_stays() -> None:
    assert chosen(TALK, 59) == ["m0", "m3", "m4", "m5"]
    assert chosen(TALK, 40) == ["m0", "m3", "m4", "m5"]
    assert chosen(TALK, 39) == ["m0", "m5"]


def test_a_context_never_begins_with_an_answer() -> None:
    selection = select_context(TALK, Budget(50, 0))
    assert [message.id for message in selection.messages] == ["m0", "m3", "m4", "m5"]
    assert (selection.tokens, selection.dropped) == (40, 2)


def test_the_template_costs_tokens_for_each_message() -> None:
    assert select_context(TALK, Budget(77, 3)).tokens == 4 * 13
    assert select_context(TALK, Budget(78, 3)).tokens == 6 * 13


def test_a_last_message_that_does_not_fit_is_refused_with_the_room_in_tokens() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        select_context(path((SYSTEM, "be brief"), (USER, "long"), tokens=30), Budget(64, 3))
    assert (caught.value.field, caught.value.limit) == ("text", "28 tokens")
    assert chosen(path((SYSTEM, "be brief"), (USER, "long"), tokens=29), 64, overhead=3) == ["m0", "m1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot help with that.", FinishReason.INPUT_BLOCKED),
        ("", FinishReason.FAILED),
        ("", FinishReason.OPEN),
        ("", FinishReason.OUTPUT_BLOCKED),
    ],
)
def test_a_turn_that_was_refused_or_never_answered_is_left_out(text: str, reason: FinishReason) -> None:
    messages = path((USER, "one"), (ASSISTANT, "1"), (USER, "bad"), (ASSISTANT, text, reason), (USER, "do it anyway"))
    assert chosen(messages, 1000) == ["m0", "m1", "m4"]


def test_a_partial_answer_is_kept() -> None:
    messages = path((USER, "one"), (ASSISTANT, "1, 2", FinishReason.CANCELLED), (USER, "go on"))
    assert chosen(messages, 1000) == ["m0", "m1", "m2"]


def test_neighbours_of_one_role_become_one_message() -> None:
    messages = path((SYSTEM, "be brief"), (SYSTEM, "be kind"), (USER, "hello"), (USER, "there"))
    assert as_said(messages) == (Said(SYSTEM, "be brief\n\nbe kind"), Said(USER, "hello\n\nthere"))


def test_neighbours_that_are_too_long_together_are_not_joined() -> None:
    messages = path((USER, "a" * MAX_TEXT_CHARACTERS), (USER, "b"))
    assert chosen(messages, 1000) == ["m1"]
    assert chosen(path((USER, "a" * (MAX_TEXT_CHARACTERS - 3)), (USER, "b")), 1000) == ["m0", "m1"]
