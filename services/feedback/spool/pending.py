"""Index of the event ids in the write-ahead log, 12 bytes an event.

A full log of 256 MiB holds 700,000 thumbs, and the index must fit into the memory of a pod beside
the service. The index therefore stores hashes only; ids and fingerprints are read from the log.
"""

from array import array
from collections import deque

BLOCK_EVENTS = 32_768
# A power of two, at most half full: a probe of a full block reads 1.5 slots on average.
SLOTS = 2 * BLOCK_EVENTS


class _Block:
    """Hash table with linear probing over consecutive offsets from `base`."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.hashes = array("q")
        # Position in `hashes` plus 1; 0 is an empty slot.
        self.slots = array("H", bytes(2 * SLOTS))

    @property
    def end(self) -> int:
        return self.base + len(self.hashes)

    def add(self, digest: int) -> None:
        slots, slot = self.slots, digest % SLOTS
        while slots[slot]:
            slot = (slot + 1) % SLOTS
        self.hashes.append(digest)
        slots[slot] = len(self.hashes)

    def find(self, digest: int) -> list[int]:
        slots, slot, found = self.slots, digest % SLOTS, []
        while place := slots[slot]:
            if self.hashes[place - 1] == digest:
                found.append(self.base + place - 1)
            slot = (slot + 1) % SLOTS
        return found


class PendingIds:
    """Offsets by event id; not thread-safe."""

    def __init__(self) -> None:
        self._blocks: deque[_Block] = deque()
        self._start = 0

    def add(self, event_id: str, offset: int) -> None:
        """Add an event; offsets ascend."""
        last = self._blocks[-1] if self._blocks else None
        if last is None or last.end != offset or len(last.hashes) == BLOCK_EVENTS:
            last = _Block(offset)
            self._blocks.append(last)
        # Python's hash of a text has 64 bits and a secret seed for each process, so a client cannot
        # choose ids that collide.
        last.add(hash(event_id))

    def candidates(self, event_id: str) -> list[int]:
        """Return the ascending offsets of events with possibly this id.

        Hashes can collide, so the caller compares the id in the log.
        """
        digest = hash(event_id)
        found = [offset for block in self._blocks for offset in block.find(digest)]
        return sorted(offset for offset in found if offset >= self._start) if found else found

    def forget(self, before: int) -> None:
        """Drop the events below an offset."""
        self._start = max(self._start, before)
        while self._blocks and self._blocks[0].end <= before:
            self._blocks.popleft()
