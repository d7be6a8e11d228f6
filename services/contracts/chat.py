"""Types of a turn: roles, tasks, texts, sampling parameters, and the end of an answer."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Author of a message, as in chat templates."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Task(StrEnum):
    """Kind of the requested answer. The generator has a preset for each specified task."""

    UNSPECIFIED = "unspecified"
    CODE = "code"
    QUESTION_ANSWERING = "question_answering"
    CHAT = "chat"
    CREATIVE = "creative"


class FinishReason(StrEnum):
    """Reason for the end of an answer; OPEN while the answer is being written."""

    OPEN = "unspecified"
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    INPUT_BLOCKED = "input_blocked"
    OUTPUT_BLOCKED = "output_blocked"
    FAILED = "failed"

    @property
    def is_blocked(self) -> bool:
        """True for an answer to a refused question, and for an answer that the guard ended."""
        return self in (FinishReason.INPUT_BLOCKED, FinishReason.OUTPUT_BLOCKED)


class Arm(StrEnum):
    """Group of the experiment; PINNED for a version chosen by the caller, BATTLE in the arena.

    The user of a BATTLE answer must not learn its version.
    """

    STABLE = "stable"
    CANDIDATE = "candidate"
    PINNED = "pinned"
    BATTLE = "battle"


# Arms whose version is not that of the experiment. Their answers and the feedback on them express
# no preference between versions.
OUTSIDE_EXPERIMENT = (Arm.PINNED, Arm.BATTLE)


class Action(StrEnum):
    """Action that the guard requires for a text, in order of strictness."""

    ALLOW = "allow"
    REDACT = "redact"
    BLOCK = "block"


@dataclass(frozen=True)
class TextEdit:
    """One correction of the enhancer. `start` and `end` count code points of the original text."""

    start: int
    end: int
    replacement: str
    kind: str


@dataclass(frozen=True)
class SamplingOverrides:
    """Sampling parameters of the caller. None and empty values keep those of the preset."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Usage:
    """Token counts of an answer. A cached answer has the counts of the original answer."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False


@dataclass(frozen=True)
class Sample:
    """Token ids, including the end token, with the raw model's log-prob of each.

    A sample reveals the answer. It is never logged, and is sealed together with the texts.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
