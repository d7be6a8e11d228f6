"""Partition of a topic as a log: filled by the consumer's thread, read by a sink.

The log buffers fetched records until they are sunk. A sink that needs another offset than the next
one (after a new lease or a commit by another writer) sets a seek offset, and the consumer seeks
there.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from services.feedback.spool.log import LogError, Record, frame_bytes


class KafkaLog:
    """Buffer of one partition between consumer and sink.

    Args:
        require_same: Raises TopicReplacedError if the topic was recreated, or LogUnavailableError
            if Kafka does not answer.
    """

    def __init__(self, topic_id: str, partition: int, require_same: Callable[[], None]) -> None:
        self.topic_id, self.partition = topic_id, partition
        self._require_same = require_same
        self._mutex = threading.Lock()
        self._records: deque[Record] = deque()
        self._start = -1  # no position: the first read requests a seek
        self._bytes = 0
        self._seek_offset: int | None = None
        self._failure: LogError | None = None
        self._sunk = 0

    @property
    def end_offset(self) -> int:
        """Offset after the last buffered record.

        After a failure the offset is one higher, so that a read happens and raises the failure.
        """
        with self._mutex:
            if self._failure:
                return self._start + 1
            return self._records[-1].offset + 1 if self._records else self._start

    @property
    def bytes_used(self) -> int:
        """Approximate size of the buffered records in bytes, measured as in the spool."""
        return self._bytes

    @property
    def failed(self) -> bool:
        """True if the partition has failed and is no longer fetched."""
        return self._failure is not None

    @property
    def sunk(self) -> int:
        """Offset below which all records are in the ledger."""
        return self._sunk

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """Implement `Log.read`; return no records while a seek is pending."""
        with self._mutex:
            failure, found, room = self._failure, list[Record](), max_bytes
            end = self._records[-1].offset + 1 if self._records else self._start
            if not failure and self._start <= start <= end:
                self._drop(start)
                for record in self._records:
                    if len(found) >= max_records or room <= 0:
                        break
                    found.append(record)
                    room -= frame_bytes(record.entry)
            elif not failure:
                self._clear()
                # Records in flight belong to the old position; `offer` drops them until the
                # consumer has sought.
                self._start = self._seek_offset = start
        # Verify the topic id after fetching: if the topic still has the id, the fetched records
        # belong to that topic.
        if found or failure:
            self._require_same()
        if failure:
            raise failure
        return found

    def trim(self, before: int) -> None:
        """Drop the records below an offset, since they are sunk."""
        with self._mutex:
            self._sunk = before
            self._drop(before)

    def offer(self, records: Sequence[Record]) -> None:
        """Append fetched records.

        While a seek is pending the records belong to another position and are dropped.
        """
        with self._mutex:
            if self._start >= 0 and self._seek_offset is None and self._failure is None:
                self._records.extend(records)
                self._bytes += sum(frame_bytes(record.entry) for record in records)

    def take_seek_offset(self) -> int | None:
        """Return and clear the offset where the consumer must seek."""
        with self._mutex:
            seek_offset, self._seek_offset = self._seek_offset, None
            return seek_offset

    def fail(self, failure: LogError) -> None:
        """Stop the log with a failure, raised by the next read."""
        with self._mutex:
            self._failure = failure
            self._clear()

    def _drop(self, before: int) -> None:
        while self._records and self._records[0].offset < before:
            self._bytes -= frame_bytes(self._records.popleft().entry)
        self._start = max(self._start, before)

    def _clear(self) -> None:
        self._records.clear()
        self._bytes = 0
