"""Context of a turn: budget, system messages, blocked and unanswered turns, and token counts."""

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import ValidationError

from services.contracts.chat import FinishReason, Role
from services.contracts.limits import MAX_TEXT_CHARACTERS, ContextLengthError
from services.session import tree
from services.session.context import (
    INLINE_CHARACTERS,
    Budget,
    TokenizerMissingError,
    load_counter,
    merge_roles,
    select_context,
)
from services.session.message import Message
from services.session.settings import SessionSettings
from services.session.tree import Branch, branch_to
from tests.services.session.tokenizer import write_tokenizer
from tests.support import tokenizers_with_markers
from tests.support.context_cases import CASES, ContextCase
from tests.support.errors import refused

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT


def path(
    *entries: tuple[Role, str] | tuple[Role, str, FinishReason], tokens: int = 10
) -> list[Message]:
    """Create messages from the root to a leaf, each with the same number of tokens."""
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


class BranchRows:
    """Fake rows of a branch with a count of reads."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.read = 0

    def path(self, message_id: str, most: int = 1 << 31) -> list[Message]:
        ids = [message.id for message in self.messages]
        end = ids.index(message_id) + 1
        page = self.messages[max(0, end - most) : end]
        self.read += len(page)
        return page

    def messages_by_id(self, ids: tuple[str, ...]) -> list[Message]:
        self.read += len(ids)
        return [message for message in self.messages if message.id in ids]


def leading(messages: list[Message]) -> Branch:
    return branch_to(cast(Any, BranchRows(messages)), messages[-1].id)


def chosen(messages: list[Message], tokens: int, overhead: int = 0) -> list[str]:
    return [
        message.id
        for message in select_context(leading(messages), Budget(tokens, overhead), {}).messages
    ]


TALK = path(
    (SYSTEM, "be brief"),
    (USER, "one"),
    (ASSISTANT, "1"),
    (USER, "two"),
    (ASSISTANT, "2"),
    (USER, "three"),
)


@pytest.mark.parametrize("case", CASES)
def test_context_is_selected_as_training_shortens_it(case: ContextCase) -> None:
    messages = [
        replace(message, tokens=tokens)
        for message, (_, tokens) in zip(
            path(*((Role(role), "text") for role, _ in case.messages)), case.messages, strict=True
        )
    ]
    if case.kept is None:
        with refused(ContextLengthError):
            chosen(messages, case.budget)
    else:
        assert chosen(messages, case.budget) == [f"m{at}" for at in case.kept]


def test_all_messages_are_selected_if_they_fit() -> None:
    assert chosen(TALK, 60) == ["m0", "m1", "m2", "m3", "m4", "m5"]


def test_oldest_messages_are_dropped_first_and_the_system_message_is_kept() -> None:
    assert chosen(TALK, 59) == ["m0", "m3", "m4", "m5"]
    assert chosen(TALK, 40) == ["m0", "m3", "m4", "m5"]
    assert chosen(TALK, 39) == ["m0", "m5"]


def test_context_never_begins_with_an_answer() -> None:
    selection = select_context(leading(TALK), Budget(50, 0), {})
    assert [message.id for message in selection.messages] == ["m0", "m3", "m4", "m5"]
    assert (selection.tokens, selection.dropped) == (40, 2)


def test_chat_template_counts_tokens_for_each_message() -> None:
    assert select_context(leading(TALK), Budget(77, 3), {}).tokens == 4 * 13
    assert select_context(leading(TALK), Budget(78, 3), {}).tokens == 6 * 13


FIELDS = {"m0": "history[0].text", "m1": "user.text"}


@pytest.mark.parametrize(
    ("system_tokens", "tokens", "fields", "field", "limit", "actual"),
    [
        (30, 30, FIELDS, "user.text", "28 tokens", "30 tokens"),
        (31, 28, FIELDS, "history[0].text", "30 tokens", "31 tokens"),
        (70, 5, {"m1": "user.text"}, "conversation_id", "53 tokens", "70 tokens"),
        (70, 90, FIELDS, "user.text", "0 tokens", "90 tokens"),
    ],
)
def test_context_that_does_not_fit_is_refused_naming_the_longest_message_in_tokens(
    system_tokens: int, tokens: int, fields: dict[str, str], field: str, limit: str, actual: str
) -> None:
    system, user = path((SYSTEM, "be brief"), (USER, "long"), tokens=tokens)
    system = replace(system, tokens=system_tokens)
    with refused(ContextLengthError, field=field, limit=limit) as caught:
        select_context(leading([system, user]), Budget(64, 3), fields)
    assert caught.value.actual == actual
    fitting = path((SYSTEM, "be brief"), (USER, "long"), tokens=29)
    assert chosen(fitting, 64, overhead=3) == ["m0", "m1"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I cannot help with that.", FinishReason.INPUT_BLOCKED),
        ("", FinishReason.FAILED),
        ("", FinishReason.OPEN),
        ("", FinishReason.OUTPUT_BLOCKED),
    ],
)
def test_blocked_or_unanswered_turn_is_left_out(text: str, reason: FinishReason) -> None:
    messages = path(
        (USER, "one"),
        (ASSISTANT, "1"),
        (USER, "bad"),
        (ASSISTANT, text, reason),
        (USER, "do it anyway"),
    )
    assert chosen(messages, 1000) == ["m0", "m1", "m4"]


def test_partial_answer_is_in_the_context() -> None:
    messages = path((USER, "one"), (ASSISTANT, "1, 2", FinishReason.CANCELLED), (USER, "go on"))
    assert chosen(messages, 1000) == ["m0", "m1", "m2"]


def test_consecutive_messages_of_one_role_are_merged() -> None:
    messages = path((SYSTEM, "be brief"), (SYSTEM, "be kind"), (USER, "hello"), (USER, "there"))
    assert [(message.role, message.text) for message in merge_roles(messages)] == [
        (SYSTEM, "be brief\n\nbe kind"),
        (USER, "hello\n\nthere"),
    ]


def test_consecutive_messages_over_the_text_limit_are_not_merged() -> None:
    messages = path((USER, "a" * MAX_TEXT_CHARACTERS), (USER, "b"))
    assert chosen(messages, 1000) == ["m1"]
    assert chosen(path((USER, "a" * (MAX_TEXT_CHARACTERS - 3)), (USER, "b")), 1000) == ["m0", "m1"]


def long_talk(turns: int) -> list[Message]:
    """Return stored messages with their depths and pinned ids."""
    entries = [
        entry
        for number in range(turns)
        for entry in ((USER, f"q{number}"), (ASSISTANT, f"a{number}"))
    ]
    stored: list[Message] = []
    for message in path((SYSTEM, "be brief"), *entries, (USER, "last")):
        pinned = ("m0", "m1")[: message.position]
        stored.append(replace(message, depth=message.position, pinned_ids=pinned))
    return stored


@pytest.mark.parametrize("turns", [100, 10_000])
def test_long_branch_is_read_only_as_far_as_the_context_reaches(turns: int) -> None:
    rows = BranchRows(long_talk(turns))
    selection = select_context(
        branch_to(cast(Any, rows), rows.messages[-1].id), Budget(1_000, 0), {}
    )
    assert selection.messages == (rows.messages[0], *rows.messages[-99:])
    assert selection.dropped == 2 * turns + 1 - 99
    assert rows.read == 2 + 2 * tree.PAGE


def test_branch_with_a_leaf_without_depth_is_read_completely() -> None:
    """Rows from before migration 0003 have neither depth nor pinned ids."""
    rows = BranchRows([replace(message, depth=-1, pinned_ids=()) for message in long_talk(100)])
    found = branch_to(cast(Any, rows), rows.messages[-1].id)
    assert (found.depth, found.pinned_ids) == (202, ("m0", "m1"))
    below = found.append(path((ASSISTANT, "answer"))[0]).newest[-1]
    assert (below.depth, below.pinned_ids, below.parent_id) == (202, ("m0", "m1"), found.leaf_id)
    assert select_context(found, Budget(1_000, 0), {}).dropped == 201 - 99


@pytest.mark.parametrize("page", [1, 2, 3, 7])
def test_page_size_does_not_change_the_context(page: int, monkeypatch: pytest.MonkeyPatch) -> None:
    messages = long_talk(20)
    messages[21] = replace(messages[21], finish_reason=FinishReason.INPUT_BLOCKED)
    messages[22] = replace(messages[22], parent_id=messages[21].id)
    budgets = [Budget(tokens, 0) for tokens in range(20, 500, 10)]
    whole = [select_context(leading(messages), budget, {}) for budget in budgets]
    monkeypatch.setattr(tree, "PAGE", page)
    paged = [select_context(leading(messages), budget, {}) for budget in budgets]
    assert [vars(selection) for selection in paged] == [vars(selection) for selection in whole]


async def test_texts_are_counted_without_truncation_and_special_tokens(tmp_path: Path) -> None:
    counter = await load_counter(write_tokenizer(tmp_path))
    assert await counter.count(["", "one", "one two three four five six"]) == [0, 1, 6]
    assert await counter.count(["word " * INLINE_CHARACTERS]) == [INLINE_CHARACTERS]


async def test_control_tokens_in_a_text_are_counted_as_text(tmp_path: Path) -> None:
    directory = tokenizers_with_markers.write_tokenizer(
        tmp_path, tokenizers_with_markers.byte_level(tokenizers_with_markers.CHATML)
    )
    counter = await load_counter(directory / "tokenizer.json")
    assert await counter.count(["<|im_end|>" * 9]) == [90]


async def test_missing_tokenizer_error_names_setting_and_command(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    with refused(TokenizerMissingError, field=str(path), reason="MISSING") as caught:
        await load_counter(path)
    assert "TW_SESSION_TOKENIZER_FILE" in str(caught.value)
    assert "make up" in str(caught.value), "the command that installs one"


async def test_malformed_tokenizer_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with refused(TokenizerMissingError, field=str(path), reason="MALFORMED"):
        await load_counter(path)


@pytest.mark.parametrize(
    "text", ["", "plain words", "naïve café", "日本語の文", "🙂👩‍👩‍👧", "\x00\x01", "<|im_end|>"]
)
async def test_bytes_bound_the_tokens_of_a_byte_level_tokenizer(tmp_path: Path, text: str) -> None:
    directory = tokenizers_with_markers.write_tokenizer(
        tmp_path, tokenizers_with_markers.byte_level(tokenizers_with_markers.CHATML)
    )
    counter = await load_counter(directory / "tokenizer.json")
    (exact,), (bound,) = await counter.count([text]), await (await load_counter(None)).count([text])
    assert exact <= bound == len(text.encode())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "tokenizer_file"),
        ({"tokenizer_file": "/tokenizer.json", "count_bytes": True}, "count_bytes"),
    ],
)
def test_tokens_are_counted_in_exactly_one_way(settings: dict[str, Any], named: str) -> None:
    key = {"principal_key": "a key for tests only"}
    with pytest.raises(ValidationError) as caught:
        SessionSettings.model_validate(key | settings)
    assert caught.value.errors()[0]["msg"].startswith(named)
