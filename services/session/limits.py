"""Checks of the limits in the proto; each error names field and limit.

Texts with U+0000 are refused, because Postgres cannot store the character.
"""

from services.contracts.chat import Arm, FinishReason, Role
from services.contracts.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_HISTORY,
    MAX_NAME_CHARACTERS,
    MAX_PAGE_SIZE,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_TEXT_CHARACTERS,
    check_sample,
    check_uuid,
    field_error,
)
from services.session.message import Answer, TurnRequest


def check_turn_request(request: TurnRequest) -> None:
    """Check a request to begin a turn.

    Raises:
        InvalidArgumentError: a value is out of its limits; with field and limit.
    """
    check_uuid(request.conversation_id, "conversation_id", optional=True)
    check_uuid(request.parent_id, "parent_message_id", optional=True)
    if len(request.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise field_error("request_id", f"at most {MAX_REQUEST_ID_CHARACTERS} characters")
    _check_storable("request_id", request.request_id)
    if request.user is not None:
        texts = {"original_text": request.user.original_text, "text": request.user.text}
        for name, text in texts.items():
            if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
                raise field_error(f"user.{name}", f"1 to {MAX_TEXT_CHARACTERS:,} characters")
            _check_storable(f"user.{name}", text)
    elif request.regenerate_id:
        check_uuid(request.regenerate_id, "regenerate_message_id")
        if request.parent_id:
            raise field_error("parent_message_id", "empty with regenerate_message_id")
    else:
        raise field_error("action", "user or regenerate_message_id")
    _check_history(request)


def check_answer(answer: Answer) -> None:
    """Check the answer of a finished turn.

    Raises:
        InvalidArgumentError: a value is out of its limits; with field and limit.
    """
    check_uuid(answer.message_id, "assistant_message_id")
    if answer.finish_reason is FinishReason.OPEN:
        raise field_error("finish_reason", "set")
    if answer.arm and answer.arm not in list(Arm):
        raise field_error("arm", " or ".join(f'"{arm}"' for arm in Arm))
    for name in ("model_version", "policy_version", "guard_category"):
        if len(getattr(answer, name)) > MAX_NAME_CHARACTERS:
            raise field_error(name, f"at most {MAX_NAME_CHARACTERS} characters")
        _check_storable(name, getattr(answer, name))
    for name, most in (("assignment_probability", 1), ("temperature", 2), ("top_p", 1)):
        if not 0 <= getattr(answer, name) <= most:
            raise field_error(name, f"0 to {most}")
    if sample := answer.sample:
        check_sample(sample, "sample")


def check_page_size(page_size: int) -> int:
    """Return the page size to use; 0 selects DEFAULT_PAGE_SIZE.

    Raises:
        InvalidArgumentError: the size is above MAX_PAGE_SIZE.
    """
    if page_size > MAX_PAGE_SIZE:
        raise field_error("page_size", f"1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    return page_size or DEFAULT_PAGE_SIZE


def _check_history(request: TurnRequest) -> None:
    if not request.history:
        return
    if request.conversation_id or request.user is None:
        raise field_error("history", "empty, except for a new conversation")
    if len(request.history) > MAX_HISTORY:
        raise field_error("history", f"at most {MAX_HISTORY} messages")
    for number, message in enumerate(request.history):
        if len(message.text) > MAX_TEXT_CHARACTERS:
            raise field_error(
                f"history[{number}].text", f"at most {MAX_TEXT_CHARACTERS:,} characters"
            )
        _check_storable(f"history[{number}].text", message.text)
    # System messages are merged with a separator of two characters.
    system = [message.text for message in request.history if message.role is Role.SYSTEM]
    if sum(len(text) + 2 for text in system) - 2 > MAX_TEXT_CHARACTERS:
        raise field_error(
            "history", f"at most {MAX_TEXT_CHARACTERS:,} characters in all system messages together"
        )


def _check_storable(field: str, text: str) -> None:
    if "\0" in text:
        raise field_error(field, "without U+0000")
