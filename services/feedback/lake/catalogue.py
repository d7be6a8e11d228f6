"""What readers may know: a stream's committed segments and the covers over them, a page at a time.
Never an orphan object.
"""

import asyncio

from services.feedback.events import Stream
from services.feedback.lake.compacted_segments import ReadableSegment
from services.feedback.lake.ledger import Ledger

# About 300 bytes each, so that an answer stays below gRPC's 4 MiB.
SEGMENTS_PER_PAGE = 10_000


class Catalogue:
    """Readers go on after the last sequence they have until an answer is empty. A cover that
    reaches over it is there whole: it takes the place of what they have of its sequences.
    """

    def __init__(self, ledger: Ledger, page: int = SEGMENTS_PER_PAGE) -> None:
        self._ledger, self._page = ledger, page

    async def after(self, stream: Stream, sequence: int) -> list[ReadableSegment]:
        """The next ones in order, at most a page. Raises: UnavailableError."""
        return await asyncio.to_thread(self._ledger.readable_segments, stream, sequence, self._page)
