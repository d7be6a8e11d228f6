"""The chat template of a model; the rules for control tokens and templates are in `chat_format`."""

from collections.abc import Sequence
from pathlib import Path

from chat_format.errors import ChatFormatError
from chat_format.templates import ChatTemplate, Message
from services.predictor.errors import InvalidRequestError, ModelRefusedError


def read_chat_template(directory: Path) -> ChatTemplate | None:
    """Read the chat template of a model directory; None without one.

    Raises:
        ModelRefusedError: the template or the list of control tokens is unusable.
    """
    try:
        return ChatTemplate.from_directory(directory)
    except ChatFormatError as error:
        raise ModelRefusedError(
            error.text, field=error.field, reason=error.reason, limit=error.limit
        ) from error


def render_chat(
    template: ChatTemplate | None, messages: Sequence[Message], add_generation_prompt: bool
) -> str:
    """Return the text of the prompt with special tokens written out.

    Raises:
        InvalidRequestError: there is no template, or the template refuses these messages.
    """
    if template is None:
        raise InvalidRequestError(
            "messages: this model has no chat template; use /v1/completions",
            "messages",
            reason="UNSUPPORTED",
        )
    try:
        return template.render(messages, add_generation_prompt)
    except ChatFormatError as error:
        raise InvalidRequestError(
            f"messages: {error.text}", "messages", reason=error.reason, limit=error.limit
        ) from error
