"""The limits that the proto states, each checked once, each error naming field and limit.

A text may not hold U+0000: Postgres cannot store it.
"""

import math
import re
from collections.abc import Sequence

from services.chassis.errors import InvalidArgumentError
from services.session.message import Answer, FinishReason, Role, Said, Sample, TurnRequest, UserText

MAX_TEXT_CHARACTERS = 32_768
MAX_HISTORY = 200
MAX_REQUEST_ID_CHARACTERS = 64
MAX_NAME_CHARACTERS = 128
MAX_SAMPLE_TOKENS = 4_096
MAX_PAGE = 100
DEFAULT_PAGE = 50
ARMS = ("stable", "candidate", "pinned")
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def check_turn_request(request: TurnRequest) -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    check_uuid(request.conversation_id, "conversation_id", optional=True)
    check_uuid(request.parent_id, "parent_message_id", optional=True)
    if len(request.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise _wrong("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters")
    _check_storable("request_id", request.request_id)
    if request.user is not None:
        _check_user_text(request.user)
    elif request.regenerate_id:
        check_uuid(request.regenerate_id, "regenerate_message_id")
        if request.parent_id:
            raise _wrong("parent_message_id", "empty beside regenerate_message_id")
    else:
        raise _wrong("action", "user or regenerate_message_id")
    _check_history(request)


def check_answer(answer: Answer) -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    check_uuid(answer.message_id, "assistant_message_id")
    if answer.finish_reason is FinishReason.OPEN:
        raise _wrong("finish_reason", "set")
    if answer.arm and answer.arm not in ARMS:
        raise _wrong("arm", " or ".join(f'"{arm}"' for arm in ARMS))
    for name in ("model_version", "policy_version", "guard_category"):
        if len(getattr(answer, name)) > MAX_NAME_CHARACTERS:
            raise _wrong(name, f"at most {MAX_NAME_CHARACTERS} characters")
        _check_storable(name, getattr(answer, name))
    for name, most in (("assignment_probability", 1), ("temperature", 2), ("top_p", 1)):
        if not 0 <= getattr(answer, name) <= most:
            raise _wrong(name, f"0 to {most}")
    if answer.sample:
        _check_sample(answer.sample)


def check_page_size(page_size: int) -> int:
    """The size to use. Raises: InvalidArgumentError."""
    if page_size > MAX_PAGE:
        raise _wrong("page_size", f"1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    return page_size or DEFAULT_PAGE


def check_uuid(text: str, field: str, *, optional: bool = False) -> None:
    """Raises: InvalidArgumentError."""
    if not (optional and not text) and not UUID.fullmatch(text):
        raise _wrong(field, "a UUID, lower case")


def _check_sample(sample: Sample) -> None:
    if not 1 <= len(sample.token_ids) <= MAX_SAMPLE_TOKENS:
        raise _wrong("sample.token_ids", f"1 to {MAX_SAMPLE_TOKENS:,} tokens")
    if len(sample.log_probs) != len(sample.token_ids):
        raise _wrong("sample.log_probs", "as many as token_ids")
    if not all(math.isfinite(value) and value <= 0 for value in sample.log_probs):
        raise _wrong("sample.log_probs", "finite and at most 0")


def _check_user_text(user: UserText) -> None:
    for name, text in (("original_text", user.original_text), ("text", user.text)):
        if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
            raise _wrong(f"user.{name}", f"1 to {MAX_TEXT_CHARACTERS:,} characters")
        _check_storable(f"user.{name}", text)


def _check_history(request: TurnRequest) -> None:
    if not request.history:
        return
    if request.conversation_id or request.user is None:
        raise _wrong("history", "empty, except for a new conversation")
    if len(request.history) > MAX_HISTORY:
        raise _wrong("history", f"at most {MAX_HISTORY} messages")
    for number, said in enumerate(request.history):
        if len(said.text) > MAX_TEXT_CHARACTERS:
            raise _wrong(f"history[{number}].text", f"at most {MAX_TEXT_CHARACTERS:,} characters")
        _check_storable(f"history[{number}].text", said.text)
    if _system_characters(request.history) > MAX_TEXT_CHARACTERS:
        raise _wrong(
            "history", f"at most {MAX_TEXT_CHARACTERS:,} characters in all system messages together"
        )


def _check_storable(field: str, text: str) -> None:
    if "\0" in text:
        raise _wrong(field, "without U+0000")


def _system_characters(history: Sequence[Said]) -> int:
    return sum(len(said.text) + 2 for said in history if said.role is Role.SYSTEM) - 2


def _wrong(field: str, limit: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} must be {limit}", field=field, limit=limit)
