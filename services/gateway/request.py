"""What a caller may ask of a turn, with every limit that proto/thumbwheel/chat/v1 states.

The three doors (gRPC, the page's HTTP, OpenAI's HTTP) meet here, so a limit is checked once and
reads the same everywhere.
"""

import re
from dataclasses import dataclass, field
from enum import StrEnum

from services.chassis.errors import InvalidArgumentError

MAX_TEXT_CHARACTERS = 32_768
MAX_TEXT_BYTES = 131_072
MAX_HISTORY = 200
MAX_REQUEST_ID_CHARACTERS = 64
MAX_REPLY_TOKENS = 4_096
MAX_TEMPERATURE = 2.0
MAX_STOPS = 4
MAX_STOP_CHARACTERS = 64
MAX_SEED = 2**64 - 1
# The name that leaves the choice of a version to the rollout.
ROLLOUT_MODEL = "thumbwheel"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
MODEL_PATTERN = re.compile(r"[a-z0-9._-]{1,128}")


class Role(StrEnum):
    """Who wrote a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Task(StrEnum):
    """What kind of answer is wanted; the generator keeps a preset for each."""

    UNSPECIFIED = "unspecified"
    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"


class DisconnectPolicy(StrEnum):
    """What happens to a running turn when nobody reads it any longer."""

    DETACH = "detach"
    CANCEL = "cancel"


@dataclass(frozen=True)
class Message:
    """One message of a context."""

    role: Role
    text: str


@dataclass(frozen=True)
class UserInput:
    """A new message of the user, and what went before if the client keeps its own history."""

    text: str
    history: tuple[Message, ...] = ()


@dataclass(frozen=True)
class Regenerate:
    """Another answer to a message that is stored."""

    message_id: str


@dataclass(frozen=True)
class Sampling:
    """What replaces the preset's values; None and empty replace nothing."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class TurnRequest:
    """One turn, as asked for."""

    action: UserInput | Regenerate
    conversation_id: str = ""
    parent_message_id: str = ""
    request_id: str = ""
    on_disconnect: DisconnectPolicy = DisconnectPolicy.DETACH
    task: Task = Task.UNSPECIFIED
    sampling: Sampling = field(default_factory=Sampling)
    model: str = ""
    skip_enhancer: bool = False

    @property
    def said_before(self) -> tuple[str, ...]:
        """The user's part of a history that the client keeps: nobody but the client knows whether
        the guard has heard it.
        """
        history = self.action.history if isinstance(self.action, UserInput) else ()
        return tuple(
            message.text for message in history if message.role is Role.USER and message.text
        )

    @property
    def pinned_version(self) -> str:
        """The version that must answer; empty: the rollout decides."""
        return "" if self.model == ROLLOUT_MODEL else self.model


def wrong(name: str, limit: str) -> InvalidArgumentError:
    """The error for a field that breaks its limit."""
    return InvalidArgumentError(f"{name} must be {limit}", field=name, limit=limit)


def check_request(request: TurnRequest) -> None:
    """Raises: InvalidArgumentError naming field and limit."""
    for name in ("conversation_id", "parent_message_id"):
        if value := getattr(request, name):
            check_uuid(value, name)
    if len(request.request_id) > MAX_REQUEST_ID_CHARACTERS:
        raise wrong("request_id", f"1 to {MAX_REQUEST_ID_CHARACTERS} characters")
    if request.model and not MODEL_PATTERN.fullmatch(request.model):
        raise wrong("model", "empty, thumbwheel, or 1 to 128 of a-z, 0-9, '.', '_', '-'")
    _check_sampling(request.sampling)
    match request.action:
        case UserInput():
            _check_input(request.action, request.conversation_id)
        case Regenerate(message_id):
            check_uuid(message_id, "regenerate.message_id")


def check_uuid(text: str, name: str) -> None:
    """Raises: InvalidArgumentError."""
    if not _UUID.fullmatch(text):
        raise wrong(name, "a UUID in lower case")


def _check_input(given: UserInput, conversation_id: str) -> None:
    if not given.text.strip():
        raise wrong("input.text", f"1 to {MAX_TEXT_CHARACTERS:,} characters that are not all blank")
    check_text(given.text, "input.text")
    if given.history and conversation_id:
        raise wrong("input.history", "empty unless the conversation is new")
    if len(given.history) > MAX_HISTORY:
        raise wrong("input.history", f"at most {MAX_HISTORY} messages")
    for number, message in enumerate(given.history):
        check_text(message.text, f"input.history[{number}].text")


def check_text(text: str, name: str) -> None:
    """Raises: InvalidArgumentError if a text is longer than a message may be."""
    if len(text) > MAX_TEXT_CHARACTERS:
        raise wrong(name, f"at most {MAX_TEXT_CHARACTERS:,} characters")
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise wrong(name, f"at most {MAX_TEXT_BYTES:,} bytes of UTF-8")


def _check_sampling(sampling: Sampling) -> None:
    # Written so that NaN fails too.
    if sampling.temperature is not None and not 0 <= sampling.temperature <= MAX_TEMPERATURE:
        raise wrong("sampling.temperature", "0 to 2")
    if sampling.top_p is not None and not 0 < sampling.top_p <= 1:
        raise wrong("sampling.top_p", "above 0 to 1")
    if sampling.max_tokens is not None and not 1 <= sampling.max_tokens <= MAX_REPLY_TOKENS:
        raise wrong("sampling.max_tokens", f"1 to {MAX_REPLY_TOKENS:,}")
    if len(sampling.stop) > MAX_STOPS or any(
        not 1 <= len(stop) <= MAX_STOP_CHARACTERS for stop in sampling.stop
    ):
        raise wrong(
            "sampling.stop", f"at most {MAX_STOPS} strings of 1 to {MAX_STOP_CHARACTERS} characters"
        )
    if sampling.seed is not None and not 0 <= sampling.seed <= MAX_SEED:
        raise wrong("sampling.seed", "0 to 2^64 - 1")
