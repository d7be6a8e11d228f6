"""Requests for turns, with all limits stated in proto/thumbwheel/chat/v1.

All public APIs (gRPC, the page's HTTP API, OpenAI's HTTP API) use this module, so that each limit
is checked once and reported in the same words.
"""

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from services.contracts import limits
from services.contracts.chat import SamplingOverrides, Task
from services.contracts.limits import (
    MAX_HISTORY,
    MAX_REPLY_TOKENS,
    MAX_REQUEST_CHARACTERS,
    MAX_REQUEST_ID_CHARACTERS,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    MAX_TEMPERATURE,
    MAX_TEXT_CHARACTERS,
    field_error,
)

MAX_TEXT_BYTES = 131_072
MAX_SEED = 2**64 - 1
# Model name that leaves the choice of a version to the rollout.
ROLLOUT_MODEL = "thumbwheel"
# The wording of the limit is part of the public API.
check_uuid = functools.partial(limits.check_uuid, limit="a UUID in lower case")
MODEL_PATTERN = re.compile(r"[a-z0-9._-]{1,128}")
# First or second model of a battle, which the review service resolves to a version.
BATTLE_PATTERN = re.compile(r"battle\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.[ab]")


class DisconnectPolicy(StrEnum):
    """Treatment of a running turn without readers."""

    DETACH = "detach"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Regenerate:
    """Request for another answer to a stored message."""

    message_id: str


def typed_message(text: str) -> session_pb2.UserMessage:
    """Return the message of a text that the enhancer has not changed."""
    return session_pb2.UserMessage(original_text=text, text=text)


@dataclass(frozen=True)
class TurnRequest:
    """Request for a turn.

    `history` is that of a client that sends its whole conversation; `client_keeps_conversation` is
    set for an API whose clients cannot continue a stored conversation. `battle_version` is the
    version behind the model of a battle, empty until it is resolved.
    """

    action: session_pb2.UserMessage | Regenerate
    history: Sequence[chat_pb2.HistoryMessage] = ()
    conversation_id: str = ""
    parent_message_id: str = ""
    request_id: str = ""
    on_disconnect: DisconnectPolicy = DisconnectPolicy.DETACH
    task: Task = Task.UNSPECIFIED
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)
    model: str = ""
    skip_enhancer: bool = False
    client_keeps_conversation: bool = False
    battle_version: str = ""

    @property
    def is_battle(self) -> bool:
        """True if the answer belongs to a battle, so that its version must stay hidden."""
        return BATTLE_PATTERN.fullmatch(self.model) is not None

    @property
    def pinned_version(self) -> str:
        """Version that must answer, or an empty string if the rollout decides."""
        if self.is_battle:
            return self.battle_version
        return "" if self.model == ROLLOUT_MODEL else self.model


def check_request(request: TurnRequest) -> None:
    """Check all limits of a request.

    Raises:
        InvalidArgumentError: A field is outside its limit. The error names both.
    """
    for name in ("conversation_id", "parent_message_id"):
        if value := getattr(request, name):
            check_uuid(value, name)
    if len(request.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise field_error("request_id", f"1 to {MAX_REQUEST_ID_CHARACTERS} characters")
    if request.model and not MODEL_PATTERN.fullmatch(request.model):
        raise field_error("model", "empty, thumbwheel, or 1 to 128 of a-z, 0-9, '.', '_', '-'")
    _check_sampling(request.sampling)
    match request.action:
        case session_pb2.UserMessage(text=text):
            if not text.strip():
                raise field_error(
                    "input.text", f"1 to {MAX_TEXT_CHARACTERS:,} characters that are not all blank"
                )
            check_text(text, "input.text")
            if request.history and request.conversation_id:
                raise field_error("input.history", "empty unless the conversation is new")
            if len(request.history) > MAX_HISTORY:
                raise field_error("input.history", f"at most {MAX_HISTORY} messages")
            for number, message in enumerate(request.history):
                check_text(message.text, f"input.history[{number}].text")
            if len(text) + sum(len(each.text) for each in request.history) > MAX_REQUEST_CHARACTERS:
                raise field_error(
                    "input.history", f"at most {MAX_REQUEST_CHARACTERS:,} characters in all texts"
                )
        case Regenerate(message_id):
            check_uuid(message_id, "regenerate.message_id")


def check_text(text: str, name: str) -> None:
    """Check the length of a text against the limits of a message.

    Raises:
        InvalidArgumentError: The text is too long.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise field_error(name, f"at most {MAX_TEXT_CHARACTERS:,} characters")
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise field_error(name, f"at most {MAX_TEXT_BYTES:,} bytes of UTF-8")


def _check_sampling(sampling: SamplingOverrides) -> None:
    # Written as `not low <= value <= high`, so that NaN fails as well.
    if sampling.temperature is not None and not 0 <= sampling.temperature <= MAX_TEMPERATURE:
        raise field_error("sampling.temperature", "0 to 2")
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise field_error("sampling.top_p", "above 0 to 1")
    if sampling.max_tokens is not None and not 1 <= sampling.max_tokens <= MAX_REPLY_TOKENS:
        raise field_error("sampling.max_tokens", f"1 to {MAX_REPLY_TOKENS:,}")
    if len(sampling.stop) > MAX_STOPS or any(
        not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in sampling.stop
    ):
        raise field_error(
            "sampling.stop", f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters"
        )
    if sampling.seed is not None and not 0 <= sampling.seed <= MAX_SEED:
        raise field_error("sampling.seed", "0 to 2^64 - 1")
