"""Turns in Valkey: events, owner, and heartbeats of gateways.

A turn is a hash (attempt, gateway, caller, `anew`, `write_ms`; `events` after the end) and one
stream per attempt. The sequence of an event is the id of its entry. Repeated appends are therefore
harmless and gaps are visible. An entry `end` follows the last event. The field `anew` marks a
restarted answer, `write_ms` is the time of the last write by its gateway.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError
from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import ERROR_BY_CODE, ServiceError, UnavailableError
from services.contracts.chat import FinishReason
from services.contracts.wire import FINISH_REASONS
from services.gateway.shared.encryption import DecryptionError, Encryptor, KeyDerivation
from services.gateway.shared.valkey_client import Script, Use, ValkeyClient
from services.gateway.turns.turn import Turn

MAX_REQUESTS = 1_000
STOP_REQUEST_SECONDS = 60
MAX_READ = 1_000
SCAN_COUNT = 1_000
# Leases without a write of its gateway after which a running turn counts as abandoned.
ABANDONED_LEASES = 3
KINDS = {code.name: kind for code, kind in ERROR_BY_CODE.items()}

# The clock of the server, because those of gateways differ.
NOW_MS = """
local time = redis.call('TIME')
local now_ms = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
"""

# KEYS: hash, stream. ARGV: attempt, gateway, caller, `anew`, ms to live, 1 if the turn ends here,
# first sequence, encrypted events …, encrypted end. Reply: last stored sequence; -1 if another
# attempt owns the turn.
APPEND = Script(
    NOW_MS
    + """
local attempt = redis.call('HGET', KEYS[1], 'attempt')
if attempt and attempt ~= ARGV[1] then return -1 end
if not attempt then
  redis.call('HSET', KEYS[1], 'attempt', ARGV[1], 'gateway', ARGV[2],
    'caller', ARGV[3], 'anew', ARGV[4])
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
redis.call('HSET', KEYS[1], 'write_ms', now_ms)
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PEXPIRE', KEYS[2], ARGV[5])
return last
"""
)

# KEYS: hash. ARGV: attempt to replace (empty: none), ms to live, attempt, gateway, caller, `anew`.
# Reply: nil if claimed, else attempt, gateway and events of the owner.
CLAIM = Script(
    NOW_MS
    + """
local attempt = redis.call('HGET', KEYS[1], 'attempt') or ''
if attempt ~= ARGV[1] then return redis.call('HMGET', KEYS[1], 'attempt', 'gateway', 'events') end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'attempt', ARGV[3], 'gateway', ARGV[4],
  'caller', ARGV[5], 'anew', ARGV[6], 'write_ms', now_ms)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return false
"""
)

# KEYS: hash. Reply: attempt, gateway, caller, `anew`, events, ms since the last write. Gateways of
# earlier versions store no time of a write; their turns count as just written.
STATE = Script(
    NOW_MS
    + """
local fields = redis.call('HMGET', KEYS[1],
  'attempt', 'gateway', 'caller', 'anew', 'events', 'write_ms')
fields[6] = fields[6] and now_ms - fields[6] or 0
return fields
"""
)


@dataclass(frozen=True)
class TurnState:
    """State of a turn.

    Args:
        events: number of events after the end, None before.
        idle_seconds: time since the gateway of the turn last wrote to it. A gateway writes to each
            of its running turns once in a lease, also without new events.
    """

    message_id: str
    attempt: str
    gateway: str
    caller_key: str = ""
    restarted: bool = False
    events: int | None = None
    idle_seconds: float = 0.0

    @property
    def stream(self) -> str:
        """Key of the stream."""
        return stream_key(self.message_id, self.attempt)


@dataclass(frozen=True)
class End:
    """End of a turn, with the turn's error if any."""

    error: ServiceError | None = None


Entry = chat_pb2.ChatEvent | End


class TurnLog:
    """Writes and reads turns. All methods raise StoreUnavailableError."""

    def __init__(
        self, valkey: ValkeyClient, keys: KeyDerivation, gateway: str, keep_seconds: float
    ) -> None:
        self._valkey, self._keys, self.gateway = valkey, keys, gateway
        self._keep_ms = int(1000 * keep_seconds)

    async def append(
        self, turn: Turn, events: Sequence[chat_pb2.ChatEvent], first: int, end: End | None
    ) -> int | None:
        """Append events from sequence `first` on.

        Returns:
            The last stored sequence, which may be lower than requested after a loss in Valkey, or
            None if another attempt owns the turn.
        """
        stream = stream_key(turn.message_id, turn.attempt)
        encryptor = self._keys.encryptor(stream)
        # Encrypted before the script runs, since Valkey must never see user text.
        sealed = [encryptor.encrypt(event.SerializeToString()) for event in events]
        if end:
            data = b""
            if error := end.error:
                words = {
                    "code": error.code.name,
                    "retry_seconds": error.retry_seconds,
                    "text": error.text,
                    "reason": error.reason,
                    "field": error.field,
                    "limit": error.limit,
                }
                data = json.dumps(words).encode()
            sealed.append(encryptor.encrypt(data))
        head = (
            turn.attempt,
            self.gateway,
            turn.caller.key,
            int(turn.restarted),
            self._keep_ms,
            int(end is not None),
            first,
        )
        last = int(await self._run(APPEND, [_hash_key(turn.message_id), stream], *head, *sealed))
        return None if last < 0 else last

    async def claim(self, turn: Turn, instead_of: str) -> TurnState | None:
        """Claim a turn if `instead_of` is the current attempt (empty: no attempt).

        Returns:
            None if claimed, else the state of the owner.
        """
        # `instead_of` makes the claim a compare-and-set, so that only one gateway wins.
        claim = (turn.attempt, self.gateway, turn.caller.key, int(turn.restarted))
        found = await self._run(
            CLAIM, [_hash_key(turn.message_id)], instead_of, self._keep_ms, *claim
        )
        if found is None:
            return None
        attempt, gateway, events = found
        return TurnState(
            turn.message_id, attempt.decode(), gateway.decode(), events=_number(events)
        )

    async def state(self, message_id: str) -> TurnState | None:
        """Return the state of a turn, or None if unknown."""
        attempt, gateway, caller, restarted, events, idle_ms = await self._run(
            STATE, [_hash_key(message_id)]
        )
        if attempt is None:
            return None
        return TurnState(
            message_id,
            attempt.decode(),
            gateway.decode(),
            caller.decode(),
            restarted == b"1",
            _number(events),
            int(idle_ms) / 1000,
        )

    async def read(
        self, after: Mapping[str, int]
    ) -> Mapping[str, Sequence[tuple[int, bytes, bytes]]]:
        """Return new entries by stream: sequence, "event" or "end", ciphertext."""
        ids = (f"{sequence}-0" for sequence in after.values())
        found = await self._call("XREAD", "COUNT", MAX_READ, "STREAMS", *after, *ids)
        # Each entry has a single field, "event" or "end". Entry ids are "<sequence>-0".
        return {
            stream.decode(): [
                (int(entry_id.partition(b"-")[0]), kind, sealed)
                for entry_id, fields in entries
                for kind, sealed in fields.items()
            ]
            for stream, entries in found or ()
        }

    def encryptor(self, stream: str) -> Encryptor:
        """Return the encryptor of a stream."""
        return self._keys.encryptor(stream)

    async def wait_until_connected(self) -> None:
        """Wait until Valkey is connected."""
        await self._valkey.wait_until_connected()

    async def heartbeat(self, lease_ms: int, processed: str) -> None:
        """Send a heartbeat with the last processed erasure request."""
        await self._call("SET", _gateway_key(self.gateway), processed, "PX", lease_ms)

    async def heartbeats(self) -> Sequence[str]:
        """Return the last processed erasure request of every live gateway."""
        keys = await self._scan(_gateway_key("*"))
        heartbeats = await asyncio.gather(*(self._call("GET", key) for key in keys))
        return [heartbeat.decode() for heartbeat in heartbeats if heartbeat is not None]

    async def is_alive(self, gateway: str) -> bool:
        """Return True if the gateway's heartbeat has not expired."""
        return bool(await self._call("EXISTS", _gateway_key(gateway)))

    async def remove(self, caller_key: str) -> None:
        """Remove all turns of a user, in all gateways."""
        attempts: dict[bytes, list[bytes]] = {}
        for key in await self._scan(f"{_hash_key('*')}*"):
            # The hash and its streams share the part in braces, which is the cluster slot.
            attempts.setdefault(key.partition(b"}")[0] + b"}", []).append(key)
        callers = await asyncio.gather(*(self._call("HGET", turn, "caller") for turn in attempts))
        for keys, caller in zip(attempts.values(), callers, strict=True):
            if caller is not None and caller.decode() == caller_key:
                await self._call("UNLINK", *keys)

    async def request_stop(self, gateway: str, message_id: str) -> None:
        """Ask a gateway to stop one of its turns."""
        requests = _stop_requests_key(gateway)
        await self._call("RPUSH", requests, message_id)
        await self._call("EXPIRE", requests, STOP_REQUEST_SECONDS)

    async def take_stop_requests(self) -> Sequence[str]:
        """Return turns that other gateways asked to stop."""
        return [
            request.decode()
            for request in await self._call("LPOP", _stop_requests_key(self.gateway), MAX_REQUESTS)
            or ()
        ]

    async def _scan(self, pattern: str) -> Sequence[bytes]:
        """Find keys by pattern in the whole database. Only for rare operations."""
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, keys = await self._call("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
            found.update(keys)
            if int(cursor) == 0:
                return sorted(found)

    async def _call(self, *command: str | bytes | int) -> Any:
        return await self._valkey.call(Use.TURNS, *command)

    async def _run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        return await self._valkey.run(Use.TURNS, script, keys, *arguments)


def decrypt_entry(encryptor: Encryptor, kind: bytes, sealed: bytes) -> Entry:
    """Decrypt an entry of a stream.

    Raises:
        UnavailableError: The entry is unreadable with this installation's secret, or the type of
            the event is unknown to this version of the gateway.
    """
    try:
        data = encryptor.decrypt(sealed)
        if kind == b"end":
            if not data:
                return End()
            words = json.loads(data)
            error_kind = KINDS.get(words.pop("code"), ServiceError)
            text = words.pop("text")
            return End(error_kind(text, **words))
        event = chat_pb2.ChatEvent.FromString(data)
    except (DecryptionError, DecodeError) as error:
        raise UnavailableError(
            "the event of another gateway cannot be decrypted", reason="SHARED_EVENTS_UNREADABLE"
        ) from error
    if event.WhichOneof("event") is None:
        raise UnavailableError(
            "the event of a newer gateway is unknown to this version",
            reason="SHARED_EVENTS_NEWER",
        )
    # A finish reason of a newer gateway counts as a failure.
    if event.HasField("completed"):
        reason = FINISH_REASONS.get(event.completed.finish_reason, FinishReason.OPEN)
        if reason is FinishReason.OPEN:
            event.completed.finish_reason = chat_pb2.FINISH_REASON_FAILED
    return event


def stream_key(message_id: str, attempt: str) -> str:
    """Return the key of an attempt's events, in the same cluster slot as the turn's hash."""
    return f"tw:{{turn/{message_id}}}:events:{attempt}"


def _hash_key(message_id: str) -> str:
    return f"tw:{{turn/{message_id}}}"


def _gateway_key(gateway: str) -> str:
    return f"tw:{{gateway/{gateway}}}:beat"


def _stop_requests_key(gateway: str) -> str:
    return f"tw:{{gateway/{gateway}}}:orders"


def _number(value: bytes | None) -> int | None:
    return None if value is None else int(value)
