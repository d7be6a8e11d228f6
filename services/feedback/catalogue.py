"""What readers may know: the committed segments of a stream, a page at a time. Orphan objects are never in here."""

import asyncio

from services.feedback.events import Stream
from services.feedback.ledger import Ledger, Segment

# About 300 bytes each, so that an answer stays below gRPC's 4 MiB.
SEGMENTS_A_PAGE = 10_000


class Catalogue:
    """Readers go on after the last sequence they have until an answer is empty."""

    def __init__(self, ledger: Ledger, page: int = SEGMENTS_A_PAGE) -> None:
        self._ledger, self._page = ledger, page

    async def after(self, stream: Stream, sequence: int) -> list[Segment]:
        """The next segments in order, at most a page. Raises: UnavailableError."""
        return await asyncio.to_thread(self._ledger.segments, stream, sequence, self._page)
