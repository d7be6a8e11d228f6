"""One partition of a topic as a log: the consumer's thread fills it, a sink reads it, in whatever
order they come.

It holds what was fetched and not yet sunk. A sink that wants another offset than comes next (a new
lease, another writer's commit) leaves a wish, and the consumer seeks there.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from services.feedback.spool.frames import Record, frame_bytes
from services.feedback.spool.log import LogError


class KafkaLog:
    """`require_same` raises if the topic was made anew (TopicReplacedError) or Kafka does not say
    (LogUnavailableError).
    """

    def __init__(self, topic_id: str, partition: int, require_same: Callable[[], None]) -> None:
        self.topic_id, self.partition = topic_id, partition
        self._require_same = require_same
        self._mutex = threading.Lock()
        self._records: deque[Record] = deque()
        self._start = -1  # nowhere: the first read leaves a wish
        self._bytes = 0
        self._seek_offset: int | None = None
        self._failure: LogError | None = None
        self._sunk = 0

    @property
    def end_offset(self) -> int:
        """One past the last record that is here; after a failure, which a read must bring to light,
        one more than that.
        """
        with self._mutex:
            if self._failure:
                return self._start + 1
            return self._records[-1].offset + 1 if self._records else self._start

    @property
    def bytes_used(self) -> int:
        """What is here, about as it lay in the spool."""
        return self._bytes

    @property
    def failed(self) -> bool:
        """Nothing is fetched for it any more."""
        return self._failure is not None

    @property
    def sunk(self) -> int:
        """Everything before this offset is in the ledger."""
        return self._sunk

    def read(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        """As `Log.read`; nothing yet if the consumer must seek first."""
        with self._mutex:
            failure = self._failure
            found = [] if failure else self._read_buffered(start, max_records, max_bytes)
        # By now the records are out of the topic, whichever it was: if it still has its id, they
        # are of this one.
        if found or failure:
            self._require_same()
        if failure:
            raise failure
        return found

    def trim(self, before: int) -> None:
        """Let go of what is sunk."""
        with self._mutex:
            self._sunk = before
            self._drop(before)

    def offer(self, records: Sequence[Record]) -> None:
        """What the consumer fetched next. Before a wish, and until it has sought there, it is not
        what is wanted.
        """
        with self._mutex:
            if self._start >= 0 and self._seek_offset is None and self._failure is None:
                self._records.extend(records)
                self._bytes += sum(frame_bytes(record.entry) for record in records)

    def take_seek_offset(self) -> int | None:
        """Where the consumer must seek before it fetches on; it does so at once."""
        with self._mutex:
            seek_offset, self._seek_offset = self._seek_offset, None
            return seek_offset

    def fail(self, failure: LogError) -> None:
        """Nothing can be read any more; the next read says why."""
        with self._mutex:
            self._failure = failure
            self._clear()

    def _read_buffered(self, start: int, max_records: int, max_bytes: int) -> list[Record]:
        end = self._records[-1].offset + 1 if self._records else self._start
        if not self._start <= start <= end:
            self._clear()
            self._start = self._seek_offset = start
            return []
        self._drop(start)
        found: list[Record] = []
        room = max_bytes
        for record in self._records:
            if len(found) >= max_records or room <= 0:
                break
            found.append(record)
            room -= frame_bytes(record.entry)
        return found

    def _drop(self, before: int) -> None:
        while self._records and self._records[0].offset < before:
            self._bytes -= frame_bytes(self._records.popleft().entry)
        self._start = max(self._start, before)

    def _clear(self) -> None:
        self._records.clear()
        self._bytes = 0
