"""Proxy that parses Kafka frames and drops a share of the ProduceResponses.

The broker has stored the records, but the producer receives no acknowledgement. Brokers advertise
their address to clients, so a listener of the broker must advertise the port of this proxy.
Otherwise clients bypass the proxy.
"""

import struct
from enum import StrEnum

from infra.simulate.faults.proxy import Chance, CutError, End, StreamProxy, run_all

# https://kafka.apache.org/protocol: a frame starts with its length. A request continues with api
# key (int16), api version (int16) and correlation id (int32), a response with the correlation id.
LENGTH = struct.Struct(">i")
REQUEST = struct.Struct(">hhi")
PRODUCE = 0
MAX_FRAME_BYTES = 100 * 1024 * 1024


class DropEffect(StrEnum):
    """Effect of a dropped response on the producer: a time-out or a reset connection."""

    SILENCE = "silence"
    RESET = "reset"


class KafkaProxy(StreamProxy):
    """Proxy with the counters `produce_requests`, `produce_responses` and `dropped`.

    `chance` may be set at any time.
    """

    def __init__(
        self, target_port: int, port: int = 0, then: DropEffect = DropEffect.RESET
    ) -> None:
        super().__init__(target_port, port)
        self.chance, self._then = Chance(0.0), then

    async def converse(self, client: End, server: End) -> None:
        produced: set[int] = set()
        await run_all(
            self._pass_requests(client, server, produced),
            self._pass_responses(client, server, produced),
        )

    async def _pass_requests(self, client: End, server: End, produced: set[int]) -> None:
        while True:
            frame = await read_frame(client)
            api_key, _, correlation_id = REQUEST.unpack_from(frame, LENGTH.size)
            if api_key == PRODUCE:
                self.counts["produce_requests"] += 1
                produced.add(correlation_id)
            await server.send(frame)

    async def _pass_responses(self, client: End, server: End, produced: set[int]) -> None:
        while True:
            frame = await read_frame(server)
            (correlation_id,) = LENGTH.unpack_from(frame, LENGTH.size)
            # Responses carry no api key; only the correlation id identifies produce responses.
            if correlation_id in produced:
                produced.remove(correlation_id)
                self.counts["produce_responses"] += 1
                if self.chance.strikes():
                    self.counts["dropped"] += 1
                    if self._then is DropEffect.RESET:
                        raise CutError
                    continue
            await client.send(frame)


async def read_frame(end: End) -> bytes:
    """Read a frame including its length.

    Raises:
        IncompleteReadError: the stream ended.
        CutError: the length is out of range.
    """
    head = await end.reader.readexactly(LENGTH.size)
    (length,) = LENGTH.unpack(head)
    if not REQUEST.size // 2 <= length <= MAX_FRAME_BYTES:
        raise CutError
    return head + await end.reader.readexactly(length)
