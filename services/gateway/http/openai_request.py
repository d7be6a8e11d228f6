"""OpenAI's chat completion request as one of ours.

A parameter is obeyed, is harmless at the value given, or is refused by name: nothing is silently
dropped.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from services.chassis.errors import InvalidArgumentError, NotFoundError
from services.gateway.request import (
    MAX_HISTORY,
    MODEL_PATTERN,
    DisconnectPolicy,
    Message,
    Role,
    Sampling,
    TurnRequest,
    UserInput,
    check_request,
    wrong,
)

ValueT = TypeVar("ValueT", bool, int, float)

MAX_EXACT_INTEGER = 2**53
ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
OBEYED = frozenset(
    (
        "model",
        "messages",
        "stream",
        "stream_options",
        "temperature",
        "top_p",
        "max_tokens",
        "max_completion_tokens",
    )
) | {"stop", "seed"}
# Say something about the caller, nothing about the answer.
WITHOUT_EFFECT = frozenset(
    (
        "user",
        "metadata",
        "store",
        "service_tier",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
    )
)
# Not supported; accepted at the values that ask for nothing. null always asks for nothing.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": (),
    "verbosity": (),
    "web_search_options": (),
}


@dataclass(frozen=True)
class CompletionRequest:
    """A turn, and how its answer is to be sent."""

    turn: TurnRequest
    model: str
    stream: bool
    include_usage: bool


def completion_request(body: Mapping[str, Any]) -> CompletionRequest:
    """The request, every limit checked.

    Raises:
        InvalidArgumentError: names the parameter and its limit.
        NotFoundError: the model's name cannot be one of ours.
    """
    _refuse_unsupported(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", "the name of a model")
    if not MODEL_PATTERN.fullmatch(model):
        raise NotFoundError(
            "the model is not served",
            reason="MODEL_NOT_FOUND",
            field="model",
            limit="see /v1/models",
        )
    stream = _optional(body, "stream", bool, "true or false") or False
    turn = TurnRequest(
        action=_input(body.get("messages")),
        sampling=_sampling(body),
        model=model,
        # The client cannot be shown what the enhancer changed, and a prompt may be a program's.
        skip_enhancer=True,
        on_disconnect=DisconnectPolicy.CANCEL,
    )
    try:
        check_request(turn)
    except InvalidArgumentError as error:
        raise _in_their_words(error, body) from error
    return CompletionRequest(turn, model, stream, _include_usage(body, stream))


def _refuse_unsupported(body: Mapping[str, Any]) -> None:
    for name, value in body.items():
        if name in NEUTRAL and value is not None and value not in NEUTRAL[name]:
            allowed = ", ".join(json.dumps(neutral) for neutral in (*NEUTRAL[name], None))
            raise InvalidArgumentError(
                f"{name} is not supported",
                reason="UNSUPPORTED_PARAMETER",
                field=name,
                limit=f"only {allowed}",
            )
        if name not in NEUTRAL and name not in OBEYED and name not in WITHOUT_EFFECT:
            raise InvalidArgumentError(
                f"{name[:64]} is not a known parameter",
                reason="UNKNOWN_PARAMETER",
                field=name[:64],
                limit=", ".join(sorted(OBEYED)),
            )


def _input(messages: Any) -> UserInput:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_HISTORY + 1:
        raise wrong("messages", f"a list of 1 to {MAX_HISTORY + 1} messages")
    read = [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    if read[-1].role is not Role.USER:
        raise wrong(
            f"messages[{len(read) - 1}].role", "user: the last message is the one to answer"
        )
    return UserInput(read[-1].text, tuple(read[:-1]))


def _message(message: Any, path: str) -> Message:
    if not isinstance(message, dict):
        raise wrong(path, "an object with role and content")
    for name, value in message.items():
        if name not in ("role", "content", "name") and value not in (None, []):
            raise wrong(f"{path}.{name[:64]}", "absent: only role, content and name are supported")
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise wrong(f"{path}.role", " or ".join(ROLES))
    return Message(ROLES[role], _content(message.get("content"), f"{path}.content"))


def _content(content: Any, path: str) -> str:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(map(_is_text_part, parts)):
        raise wrong(path, "a text in valid Unicode, or a list of parts of type text")
    return "".join(part["text"] for part in parts)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and is_unicode(part.get("text"))


def is_unicode(text: Any) -> bool:
    """True for a text that has a UTF-8; JSON's escapes can spell half a character."""
    return isinstance(text, str) and not any(
        "\ud800" <= character <= "\udfff" for character in text
    )


def _sampling(body: Mapping[str, Any]) -> Sampling:
    longest = _optional(body, _max_tokens_name(body), int, "a whole number")
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(map(is_unicode, stops)):
        raise wrong("stop", "a text, or a list of texts")
    return Sampling(
        temperature=_optional(body, "temperature", float, "a number"),
        top_p=_optional(body, "top_p", float, "a number"),
        max_tokens=longest,
        stop=tuple(stops),
        seed=_optional(body, "seed", int, "a whole number"),
    )


def _max_tokens_name(body: Mapping[str, Any]) -> str:
    return "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream or not isinstance(options, dict):
        raise wrong("stream_options", "an object, and only with stream")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise wrong(f"stream_options.{name[:64]}", "absent: only include_usage is known")
    return _optional(options, "include_usage", bool, "true or false") or False


def _optional(body: Mapping[str, Any], name: str, kind: type[ValueT], limit: str) -> ValueT | None:
    value = body.get(name)
    if value is None:
        return None
    # true is an int to Python; a whole number is a float to JSON.
    if kind is float and type(value) is int and abs(value) < MAX_EXACT_INTEGER:
        return kind(value)
    if type(value) is not kind:
        raise wrong(name, limit)
    return value


def _in_their_words(error: InvalidArgumentError, body: Mapping[str, Any]) -> InvalidArgumentError:
    """The same error under the name that the parameter has in OpenAI's request."""
    ours, messages = error.field, body["messages"]
    theirs = (
        ours.replace("input.text", f"messages[{len(messages) - 1}].content")
        .replace("input.history", "messages")
        .replace("].text", "].content")
        .replace("sampling.max_tokens", _max_tokens_name(body))
        .replace("sampling.", "")
    )
    return InvalidArgumentError(
        error.text.replace(ours, theirs), reason=error.reason, field=theirs, limit=error.limit
    )
