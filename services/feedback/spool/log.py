"""Log between acceptance and sink: the spool, or a partition of a Kafka topic."""

from dataclasses import dataclass
from typing import Protocol

from services.chassis.errors import DetailedError
from services.feedback.spool.frames import Record


class LogError(DetailedError):
    """Log is unusable in its current state and needs an operator."""

    reason = "INVALID_LOG"


class OffsetOutOfRangeError(LogError):
    """Requested records are not in the log; readers must stop and never skip.

    `limit` is the available range.
    """

    reason = "OUT_OF_RANGE"


class TopicReplacedError(LogError):
    """Log was replaced by another log of the same name, with another id and offsets from 0."""

    reason = "MISMATCH"


class LogUnavailableError(DetailedError):
    """Log does not answer at present; the caller retries later."""

    reason = "UNREACHABLE"


@dataclass(frozen=True)
class LogView:
    """Range of a partition for an external observer: `start_offset` to before `end_offset`."""

    topic_id: str
    partition: int
    start_offset: int
    end_offset: int


class Log(Protocol):
    """One partition of a log, as read by a sink."""

    @property
    def topic_id(self) -> str:
        """Identifier of this log; a recreated log has another id and starts at offset 0."""

    @property
    def partition(self) -> int:
        """Number of the partition."""

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """Return records from an offset on, in order.

        Raises:
            OffsetOutOfRangeError: The log lacks the offset.
            TopicReplacedError: The topic was recreated.
            LogUnavailableError: The log does not answer.
        """

    def trim(self, before: int) -> None:
        """Release records below an offset, since no reader needs them."""
