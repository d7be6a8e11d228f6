"""Pages of a stream's readable segments; orphan objects are never listed."""

import asyncio

from services.feedback.events import Stream
from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.lake.ledger import Ledger

# About 300 bytes each, so that a response stays below gRPC's limit of 4 MiB.
SEGMENTS_PER_PAGE = 10_000


class Catalogue:
    """Catalogue of readable segments.

    Readers continue after their last sequence until a page is empty. A compacted segment that
    starts before that sequence is returned whole and replaces the reader's earlier segments.
    """

    def __init__(self, ledger: Ledger, page: int = SEGMENTS_PER_PAGE) -> None:
        self._ledger, self._page = ledger, page

    async def after(self, stream: Stream, sequence: int) -> list[ReadableSegment]:
        """Return the next readable segments in order, at most one page.

        Raises:
            UnavailableError: The database does not answer.
        """
        return await asyncio.to_thread(self._ledger.readable_segments, stream, sequence, self._page)
