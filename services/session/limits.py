"""Checks of the limits in the proto; each error names field and limit.

Texts with U+0000 are refused, because Postgres cannot store the character.
"""

import math
import re

from services.chassis.errors import InvalidArgumentError
from services.session.message import (
    Answer,
    FinishReason,
    Role,
    TurnRequest,
)

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
    """Check a request to begin a turn.

    Raises:
        InvalidArgumentError: a value is out of its limits; with field and limit.
    """
    check_uuid(request.conversation_id, "conversation_id", optional=True)
    check_uuid(request.parent_id, "parent_message_id", optional=True)
    if len(request.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise _invalid("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters")
    _check_storable("request_id", request.request_id)
    if request.user is not None:
        texts = {"original_text": request.user.original_text, "text": request.user.text}
        for name, text in texts.items():
            if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
                raise _invalid(f"user.{name}", f"1 to {MAX_TEXT_CHARACTERS:,} characters")
            _check_storable(f"user.{name}", text)
    elif request.regenerate_id:
        check_uuid(request.regenerate_id, "regenerate_message_id")
        if request.parent_id:
            raise _invalid("parent_message_id", "empty with regenerate_message_id")
    else:
        raise _invalid("action", "user or regenerate_message_id")
    _check_history(request)


def check_answer(answer: Answer) -> None:
    """Check the answer of a finished turn.

    Raises:
        InvalidArgumentError: a value is out of its limits; with field and limit.
    """
    check_uuid(answer.message_id, "assistant_message_id")
    if answer.finish_reason is FinishReason.OPEN:
        raise _invalid("finish_reason", "set")
    if answer.arm and answer.arm not in ARMS:
        raise _invalid("arm", " or ".join(f'"{arm}"' for arm in ARMS))
    for name in ("model_version", "policy_version", "guard_category"):
        if len(getattr(answer, name)) > MAX_NAME_CHARACTERS:
            raise _invalid(name, f"at most {MAX_NAME_CHARACTERS} characters")
        _check_storable(name, getattr(answer, name))
    for name, most in (("assignment_probability", 1), ("temperature", 2), ("top_p", 1)):
        if not 0 <= getattr(answer, name) <= most:
            raise _invalid(name, f"0 to {most}")
    if sample := answer.sample:
        if not 1 <= len(sample.token_ids) <= MAX_SAMPLE_TOKENS:
            raise _invalid("sample.token_ids", f"1 to {MAX_SAMPLE_TOKENS:,} tokens")
        if len(sample.log_probs) != len(sample.token_ids):
            raise _invalid("sample.log_probs", "as many as token_ids")
        if not all(math.isfinite(value) and value <= 0 for value in sample.log_probs):
            raise _invalid("sample.log_probs", "finite and at most 0")


def check_page_size(page_size: int) -> int:
    """Return the page size to use; 0 selects DEFAULT_PAGE.

    Raises:
        InvalidArgumentError: the size is above MAX_PAGE.
    """
    if page_size > MAX_PAGE:
        raise _invalid("page_size", f"1 to {MAX_PAGE}, or 0 for {DEFAULT_PAGE}")
    return page_size or DEFAULT_PAGE


def check_uuid(text: str, field: str, *, optional: bool = False) -> None:
    """Check that a text is a UUID in lower case, or, if `optional`, empty.

    Raises:
        InvalidArgumentError: the text is malformed.
    """
    if not (optional and not text) and not UUID.fullmatch(text):
        raise _invalid(field, "a UUID, lower case")


def _check_history(request: TurnRequest) -> None:
    if not request.history:
        return
    if request.conversation_id or request.user is None:
        raise _invalid("history", "empty, except for a new conversation")
    if len(request.history) > MAX_HISTORY:
        raise _invalid("history", f"at most {MAX_HISTORY} messages")
    for number, message in enumerate(request.history):
        if len(message.text) > MAX_TEXT_CHARACTERS:
            raise _invalid(f"history[{number}].text", f"at most {MAX_TEXT_CHARACTERS:,} characters")
        _check_storable(f"history[{number}].text", message.text)
    # System messages are merged with a separator of two characters.
    system = [message.text for message in request.history if message.role is Role.SYSTEM]
    if sum(len(text) + 2 for text in system) - 2 > MAX_TEXT_CHARACTERS:
        raise _invalid(
            "history", f"at most {MAX_TEXT_CHARACTERS:,} characters in all system messages together"
        )


def _check_storable(field: str, text: str) -> None:
    if "\0" in text:
        raise _invalid(field, "without U+0000")


def _invalid(field: str, limit: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} must be {limit}", field=field, limit=limit)
