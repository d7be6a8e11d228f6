"""Conversion of OpenAI's chat completion request.

A parameter is applied, has no effect at the given value, or is rejected by name. No parameter is
dropped silently.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.errors import InvalidArgumentError, NotFoundError
from services.contracts.chat import SamplingOverrides
from services.contracts.limits import MAX_HISTORY, MAX_STOPS, field_error, with_field
from services.gateway.turns.request import (
    MODEL_PATTERN,
    DisconnectPolicy,
    TurnRequest,
    check_request,
    typed_message,
)

ValueT = TypeVar("ValueT", bool, int, float)

MAX_EXACT_INTEGER = 2**53
MAX_PARTS = 64  # in the content of one message
ROLES = {
    "system": chat_pb2.ROLE_SYSTEM,
    "developer": chat_pb2.ROLE_SYSTEM,
    "user": chat_pb2.ROLE_USER,
    "assistant": chat_pb2.ROLE_ASSISTANT,
}
SUPPORTED = frozenset(
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
# About the caller, without effect on the answer. With a shared key `user` and `safety_identifier`
# name the end user (identity/end_users.py).
IGNORED = frozenset(
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
# Unsupported parameters, accepted at the values without effect. null never has an effect.
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
    """A turn, with the format of its answer."""

    turn: TurnRequest
    model: str
    stream: bool
    include_usage: bool


def completion_request(body: Mapping[str, Any]) -> CompletionRequest:
    """Convert a request and check all limits.

    Raises:
        InvalidArgumentError: A parameter is invalid. The error names parameter and limit.
        NotFoundError: The model name has an impossible form.
    """
    _refuse_unsupported(body)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise field_error("model", "the name of a model")
    if not MODEL_PATTERN.fullmatch(model):
        raise NotFoundError(
            "the model is not served",
            reason="MODEL_NOT_FOUND",
            field="model",
            limit="see /v1/models",
        )
    stream = _optional(body, "stream", bool, "true or false") or False
    prompt, history = _input(body.get("messages"))
    longest = _optional(body, _max_tokens_name(body), int, "a whole number")
    stop = body.get("stop")
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or not all(map(is_unicode, stops[: MAX_STOPS + 1])):
        raise field_error("stop", "a text, or a list of texts")
    turn = TurnRequest(
        prompt,
        history,
        sampling=SamplingOverrides(
            temperature=_optional(body, "temperature", float, "a number"),
            top_p=_optional(body, "top_p", float, "a number"),
            max_tokens=longest,
            stop=tuple(stops[: MAX_STOPS + 1]),
            seed=_optional(body, "seed", int, "a whole number"),
        ),
        model=model,
        # This API has no field for the enhancer's changes, and prompts may come from programs.
        skip_enhancer=True,
        on_disconnect=DisconnectPolicy.CANCEL,
        client_keeps_conversation=True,
    )
    with openai_names(body):
        check_request(turn)
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
        if name not in NEUTRAL and name not in SUPPORTED and name not in IGNORED:
            raise InvalidArgumentError(
                f"{name[:64]} is not a known parameter",
                reason="UNKNOWN_PARAMETER",
                field=name[:64],
                limit=", ".join(sorted(SUPPORTED)),
            )


def _input(messages: Any) -> tuple[session_pb2.UserMessage, Sequence[chat_pb2.HistoryMessage]]:
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_HISTORY + 1:
        raise field_error("messages", f"a list of 1 to {MAX_HISTORY + 1} messages")
    read: list[chat_pb2.HistoryMessage] = []
    for number, message in enumerate(messages):
        path = f"messages[{number}]"
        if not isinstance(message, dict):
            raise field_error(path, "an object with role and content")
        for name, value in message.items():
            if name not in ("role", "content", "name") and value not in (None, []):
                raise field_error(
                    f"{path}.{name[:64]}", "absent: only role, content and name are supported"
                )
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str) or role not in ROLES:
            raise field_error(f"{path}.role", " or ".join(ROLES))
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if isinstance(parts, list) and len(parts) > MAX_PARTS:
            raise field_error(f"{path}.content", f"at most {MAX_PARTS} parts")
        if not isinstance(parts, list) or not all(
            isinstance(part, dict) and part.get("type") == "text" and is_unicode(part.get("text"))
            for part in parts
        ):
            raise field_error(
                f"{path}.content", "a text in valid Unicode, or a list of parts of type text"
            )
        text = "".join(part["text"] for part in parts)
        read.append(chat_pb2.HistoryMessage(role=ROLES[role], text=text))
    if read[-1].role != chat_pb2.ROLE_USER:
        raise field_error(
            f"messages[{len(read) - 1}].role", "user: the last message is the one to answer"
        )
    return typed_message(read[-1].text), read[:-1]


def is_unicode(text: Any) -> bool:
    """Return True for text with a UTF-8 form. JSON escapes can contain half a surrogate pair."""
    if not isinstance(text, str):
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _max_tokens_name(body: Mapping[str, Any]) -> str:
    return "max_tokens" if body.get("max_completion_tokens") is None else "max_completion_tokens"


def _include_usage(body: Mapping[str, Any], stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not stream or not isinstance(options, dict):
        raise field_error("stream_options", "an object, and only with stream")
    for name in options:
        if name not in ("include_usage", "include_obfuscation"):
            raise field_error(f"stream_options.{name[:64]}", "absent: only include_usage is known")
    return _optional(options, "include_usage", bool, "true or false") or False


def _optional(body: Mapping[str, Any], name: str, kind: type[ValueT], limit: str) -> ValueT | None:
    value = body.get(name)
    if value is None:
        return None
    # In Python `True` is an int. In JSON a whole number is also a float.
    if kind is float and type(value) is int and abs(value) < MAX_EXACT_INTEGER:
        return kind(value)
    if type(value) is not kind:
        raise field_error(name, limit)
    return value


@contextmanager
def openai_names(body: Mapping[str, Any]) -> Iterator[None]:
    """Raise errors of the block with OpenAI's name of the parameter in a valid body."""
    try:
        yield
    except InvalidArgumentError as error:
        theirs = (
            error.field.replace("input.text", f"messages[{len(body['messages']) - 1}].content")
            .replace("input.history", "messages")
            .replace("].text", "].content")
            .replace("sampling.max_tokens", _max_tokens_name(body))
            .replace("sampling.", "")
        )
        raise with_field(error, theirs) from error
