"""What stands between accept and sink, as the sink sees it: the spool itself, or a partition of a
topic that it is relayed to.
"""

from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import DetailedError
from services.feedback.spool.frames import Record


class LogError(DetailedError):
    """The log cannot be used as it is; a person must look."""

    reason = "INVALID_LOG"


class OffsetOutOfRangeError(LogError):
    """Records were asked for that the log does not have: a reader must stop and never jump. `limit`
    is what it has.
    """

    reason = "OUT_OF_RANGE"


class TopicReplacedError(LogError):
    """The log that was read is gone, another one has its name: it begins at 0 under its own id."""

    reason = "MISMATCH"


class LogUnavailableError(DetailedError):
    """The log does not answer now: later again."""

    reason = "UNREACHABLE"


@dataclass(frozen=True)
class LogView:
    """One partition seen from outside: what it holds, from `start_offset` to before `end_offset`."""

    topic_id: str
    partition: int
    start_offset: int
    end_offset: int


class Log(Protocol):
    """One partition."""

    @property
    def topic_id(self) -> str:
        """Names this very log: made anew, it has another id, and its offsets begin again."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """Records from an offset on, in order. Raises: OffsetOutOfRangeError, TopicReplacedError,
        LogUnavailableError.
        """

    def trim(self, before: int) -> None:
        """What lies before the offset will not be read again."""
