"""Turns as they lie in Valkey: what was said, who answers, and whether that gateway lives.

A turn is a hash (attempt, gateway, caller, anew; `events` once it has ended) and a stream a
attempt, whose entries have the sequence of the event as their id: appending twice is harmless, a
gap is seen, and after the last event comes an entry `end`.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ERROR_BY_CODE, ServiceError, UnavailableError
from services.gateway.events import TurnEvent
from services.gateway.shared.link import Link, Script, Use
from services.gateway.shared.seal import Box, Seal, SealBrokenError
from services.gateway.translation import event_message, placed_event
from services.gateway.turn import Turn

MOST_ORDERS = 1_000
ORDER_SECONDS = 60
MOST_READ = 1_000
SCAN_COUNT = 1_000
KINDS = {code.name: kind for code, kind in ERROR_BY_CODE.items()}

# KEYS: hash, stream. ARGV: attempt, gateway, caller, anew, ttl in ms, whether it ends here, first
# sequence, sealed events … and last the sealed end. Reply: the last sequence that is there; -1 if
# another attempt is.
APPEND = Script("""
local attempt = redis.call('HGET', KEYS[1], 'attempt')
if attempt and attempt ~= ARGV[1] then return -1 end
if not attempt then
  redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'gateway', ARGV[2], 'caller', ARGV[3], 'anew', ARGV[4])
end
local newest = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
local last = newest and tonumber(newest[1]:match('^%d+')) or 0
local ended = redis.call('HGET', KEYS[1], 'events')
local count = #ARGV - 7 - tonumber(ARGV[6])
local sequence = tonumber(ARGV[7])
for i = 1, count do
  if sequence == last + 1 and not ended then
    redis.call('XADD', KEYS[2], sequence .. '-0', 'event', ARGV[7 + i])
    last = sequence
  end
  sequence = sequence + 1
end
if ARGV[6] == '1' and last == sequence - 1 and not ended then
  redis.call('XADD', KEYS[2], sequence .. '-0', 'end', ARGV[#ARGV])
  redis.call('HSET', KEYS[1], 'events', last)
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return last
""")

# KEYS: hash. ARGV: the attempt that must be there (empty: none), ttl in ms, attempt, gateway,
# caller, anew. Reply: nil if it is ours now, else what is there: attempt, gateway, events.
CLAIM = Script("""
local attempt = redis.call('HGET', KEYS[1], 'attempt') or ''
if attempt ~= ARGV[1] then return redis.call('HMGET', KEYS[1], 'attempt', 'gateway', 'events') end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'attempt', ARGV[3], 'gateway', ARGV[4], 'caller', ARGV[5], 'anew', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return false
""")


@dataclass(frozen=True)
class TurnState:
    """What is known of a turn. `events` is their number once it has ended."""

    message_id: str
    attempt: str
    gateway: str
    caller_key: str = ""
    anew: bool = False
    events: int | None = None

    @property
    def stream(self) -> str:
        """Key of its stream."""
        return stream_key(self.message_id, self.attempt)


@dataclass(frozen=True)
class End:
    """After the last event; `error` is that of the turn."""

    error: ServiceError | None = None


Entry = TurnEvent | End


class TurnLog:
    """Writes and reads turns. Everything raises StoreAwayError."""

    def __init__(self, link: Link, seal: Seal, gateway: str, keep_seconds: float) -> None:
        self._link, self._seal, self.gateway = link, seal, gateway
        self._keep_ms = int(1000 * keep_seconds)

    async def append(self, turn: Turn, events: Sequence[TurnEvent], first: int, end: End | None) -> int | None:
        """The last sequence that is there now, which may be less than what is asked to follow;
        None: another attempt is there.
        """
        stream = stream_key(turn.message_id, turn.attempt)
        box = self._seal.box(stream)
        sealed = [box.seal(event_message(event).SerializeToString()) for event in events]
        if end:
            sealed.append(box.seal(_end_bytes(end)))
        head = (turn.attempt, self.gateway, turn.caller.key, int(turn.anew), self._keep_ms, int(end is not None), first)
        last = int(await self._run(APPEND, [_hash_key(turn.message_id), stream], *head, *sealed))
        return None if last < 0 else last

    async def claim(self, turn: Turn, instead_of: str) -> TurnState | None:
        """Make the turn ours, if `instead_of` is the attempt that is there (empty: none); else what
        is there.
        """
        mine = (turn.attempt, self.gateway, turn.caller.key, int(turn.anew))
        found = await self._run(CLAIM, [_hash_key(turn.message_id)], instead_of, self._keep_ms, *mine)
        if found is None:
            return None
        attempt, gateway, events = found
        return TurnState(turn.message_id, attempt.decode(), gateway.decode(), events=_number(events))

    async def state(self, message_id: str) -> TurnState | None:
        """What is known of a turn; None: nothing."""
        fields = ("attempt", "gateway", "caller", "anew", "events")
        attempt, gateway, caller, anew, events = await self._call("HMGET", _hash_key(message_id), *fields)
        if attempt is None:
            return None
        return TurnState(message_id, attempt.decode(), gateway.decode(), caller.decode(), anew == b"1", _number(events))

    async def read(self, after: Mapping[str, int]) -> Mapping[str, Sequence[tuple[int, bytes, bytes]]]:
        """What came after a sequence in each stream: sequence, "event" or "end", sealed."""
        ids = (f"{sequence}-0" for sequence in after.values())
        found = await self._call("XREAD", "COUNT", MOST_READ, "STREAMS", *after, *ids)
        return {key.decode(): [_raw(entry) for entry in entries] for key, entries in found or ()}

    def box(self, stream: str) -> Box:
        """For what lies in a stream."""
        return self._seal.box(stream)

    async def returned(self) -> None:
        """Wait until Valkey is there."""
        await self._link.returned()

    async def beat(self, lease_ms: int, obeyed: str) -> None:
        """This gateway lives, and has done what it was told up to this erasure."""
        await self._call("SET", _gateway_key(self.gateway), obeyed, "PX", lease_ms)

    async def beats(self) -> Sequence[str]:
        """Of all gateways that live: up to which erasure each has done what it was told."""
        keys = await self._keys(_gateway_key("*"))
        beats = await asyncio.gather(*(self._call("GET", key) for key in keys))
        return [beat.decode() for beat in beats if beat is not None]

    async def lives(self, gateway: str) -> bool:
        """Whether a gateway has beaten lately."""
        return bool(await self._call("EXISTS", _gateway_key(gateway)))

    async def remove(self, caller_key: str) -> None:
        """Remove all turns of a user, whoever answered them."""
        attempts: dict[bytes, list[bytes]] = {}
        for key in await self._keys(f"{_hash_key('*')}*"):
            attempts.setdefault(key.partition(b"}")[0] + b"}", []).append(key)
        callers = await asyncio.gather(*(self._call("HGET", turn, "caller") for turn in attempts))
        for keys, caller in zip(attempts.values(), callers, strict=True):
            if caller is not None and caller.decode() == caller_key:
                await self._call("UNLINK", *keys)

    async def order_stop(self, gateway: str, message_id: str) -> None:
        """Tell a gateway to stop a turn of its own."""
        orders = _orders_key(gateway)
        await self._call("RPUSH", orders, message_id)
        await self._call("EXPIRE", orders, ORDER_SECONDS)

    async def take_orders(self) -> Sequence[str]:
        """Turns that others want stopped."""
        return [order.decode() for order in await self._call("LPOP", _orders_key(self.gateway), MOST_ORDERS) or ()]

    async def _keys(self, pattern: str) -> Sequence[bytes]:
        """Found among all keys that there are: only for what is seldom asked."""
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, keys = await self._call("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
            found.update(keys)
            if int(cursor) == 0:
                return sorted(found)

    async def _call(self, *command: str | bytes | int) -> Any:
        return await self._link.call(Use.TURNS, *command)

    async def _run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return await self._link.run(Use.TURNS, script, keys, *arguments)


def opened(box: Box, kind: bytes, sealed: bytes) -> Entry:
    """An entry of a stream. Raises: UnavailableError if it is not readable with this installation's
    secret.
    """
    try:
        data = box.open(sealed)
        return _end(data) if kind == b"end" else placed_event(chat_pb2.ChatEvent.FromString(data))
    except (SealBrokenError, DecodeError) as error:
        raise UnavailableError(
            "what another gateway wrote cannot be read here", reason="SHARED_EVENTS_UNREADABLE"
        ) from error


def stream_key(message_id: str, attempt: str) -> str:
    """Key of the events of an attempt; in one slot of a cluster with the turn's hash."""
    return f"tw:{{turn/{message_id}}}:events:{attempt}"


def _hash_key(message_id: str) -> str:
    return f"tw:{{turn/{message_id}}}"


def _gateway_key(gateway: str) -> str:
    return f"tw:{{gateway/{gateway}}}:beat"


def _orders_key(gateway: str) -> str:
    return f"tw:{{gateway/{gateway}}}:orders"


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)


def _raw(entry: tuple[bytes, Mapping[bytes, bytes]]) -> tuple[int, bytes, bytes]:
    ((kind, sealed),) = entry[1].items()
    return int(entry[0].partition(b"-")[0]), kind, sealed


def _end_bytes(end: End) -> bytes:
    if end.error is None:
        return b""
    error = end.error
    words = {"text": error.text, "reason": error.reason, "field": error.field, "limit": error.limit}
    return json.dumps({"code": error.code.name, "retry_seconds": error.retry_seconds, **words}).encode()


def _end(data: bytes) -> End:
    if not data:
        return End()
    words = json.loads(data)
    kind = KINDS.get(words.pop("code"), ServiceError)
    text = words.pop("text")
    return End(kind(text, **words))
