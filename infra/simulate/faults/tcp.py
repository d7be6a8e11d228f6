"""TCP proxy without knowledge of the protocol above.

Faults are delay, limited bandwidth, small slices, silence, refusal, resets, and responses lost
after the request. A lost response is a reset: the client sees an error although the server has
executed the request.
"""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from infra.simulate.faults.proxy import Chance, CutError, End, StreamProxy, run_all

CHUNK_BYTES = 64 * 1024
SILENT_POLL_SECONDS = 0.01
PACE_SECONDS = 0.1


class Fault(StrEnum):
    """Counted fault: delayed chunks and reset connections."""

    DELAYED = "delayed"
    PACED = "paced"
    SLICED = "sliced"
    SILENCED = "silenced"
    REFUSED = "refused"
    RESET = "reset"
    ANSWER_LOST = "answer_lost"


@dataclass(frozen=True)
class TcpFaults:
    """Faults of all connections from now on, including existing connections. No fault by default.

    silent: no data pass and no connection closes, as if packets were dropped; traffic continues
    afterwards. refuse: new connections are reset. reset_up_bytes, reset_down_bytes: the connection
    is reset after this number of bytes to the server or to the client. lose_answers: requests
    arrive, and the connection is reset at the first byte of the response. chance: applies to each
    refusal and each lost response.
    """

    latency_seconds: float = 0.0
    bytes_per_second: float = math.inf
    slice_bytes: int = CHUNK_BYTES
    silent: bool = False
    refuse: bool = False
    reset_up_bytes: float = math.inf
    reset_down_bytes: float = math.inf
    lose_answers: bool = False
    chance: Chance = field(default_factory=Chance)


class TcpProxy(StreamProxy):
    """TCP proxy. `faults` may be set at any time from any thread."""

    def __init__(self, target_port: int, port: int = 0) -> None:
        super().__init__(target_port, port)
        self.faults = TcpFaults()

    async def admitted(self) -> bool:
        if self.faults.refuse and self.faults.chance.strikes():
            self.counts[Fault.REFUSED] += 1
            return False
        await self._wait_while_silent()
        return True

    async def converse(self, client: End, server: End) -> None:
        await run_all(self._pass_up(client, server), self._pass_down(client, server))

    async def _pass_up(self, client: End, server: End) -> None:
        passed = 0
        while chunk := await client.reader.read(CHUNK_BYTES):
            await self._pass(chunk, server, self.faults.reset_up_bytes - passed)
            passed += len(chunk)
        server.writer.write_eof()

    async def _pass_down(self, client: End, server: End) -> None:
        passed = 0
        while chunk := await server.reader.read(CHUNK_BYTES):
            if self.faults.lose_answers and self.faults.chance.strikes():
                self.counts[Fault.ANSWER_LOST] += 1
                raise CutError
            await self._pass(chunk, client, self.faults.reset_down_bytes - passed)
            passed += len(chunk)
        client.writer.write_eof()

    async def _pass(self, chunk: bytes, to: End, bytes_left: float) -> None:
        """Send a chunk with the configured faults.

        Raises:
            CutError: the byte limit of the connection is reached; raised after its last byte.
        """
        await self._wait_while_silent()
        faults = self.faults
        if faults.latency_seconds:
            self.counts[Fault.DELAYED] += 1
            await asyncio.sleep(faults.latency_seconds)
        cut = len(chunk) > bytes_left
        # At limited bandwidth a part lasts at most PACE_SECONDS.
        size = int(min(faults.slice_bytes, max(1, faults.bytes_per_second * PACE_SECONDS)))
        for part in slices(chunk[: max(0, int(bytes_left))] if cut else chunk, size):
            if faults.bytes_per_second < math.inf:
                self.counts[Fault.PACED] += 1
                await asyncio.sleep(len(part) / faults.bytes_per_second)
            await to.send(part)
            if faults.slice_bytes < len(chunk):
                self.counts[Fault.SLICED] += 1
                await asyncio.sleep(0)  # Yield, so that each part becomes a separate packet.
        if cut:
            self.counts[Fault.RESET] += 1
            raise CutError

    async def _wait_while_silent(self) -> None:
        if self.faults.silent:
            self.counts[Fault.SILENCED] += 1
        while self.faults.silent:  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(SILENT_POLL_SECONDS)


def slices(chunk: bytes, size: int) -> Iterator[bytes]:
    """Split a chunk into parts of at most `size` bytes."""
    return (chunk[at : at + size] for at in range(0, len(chunk), size))
