"""Client of Valkey with one connection and one shared state, connected or not.

A separate task writes all waiting commands as one batch. Cancelling a caller therefore never leaves
a stray reply on the connection. A batch has a short deadline. The first failed batch disconnects,
and all calls fail at once until a probe write succeeds.
"""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from valkey.asyncio import Valkey
from valkey.exceptions import (
    BusyLoadingError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    ValkeyError,
)

from services.chassis.telemetry import fields
from services.gateway.metrics import VALKEY_ERRORS, VALKEY_SECONDS, VALKEY_UP
from services.gateway.shared import StoreUnavailableError

log = logging.getLogger(__name__)

MAX_BATCH = 500
PROBE_MILLISECONDS = 1_000
ROUNDS_TO_READ = 20
# Replies that refuse any command at present. The first are types of the client library, the others
# are recognised by their first word.
REFUSALS: Mapping[type[Exception], str] = {
    OutOfMemoryError: "full",
    ReadOnlyError: "read_only",
    BusyLoadingError: "loading",
}
REFUSAL_WORDS = ("MISCONF", "BUSY", "NOREPLICAS", "MASTERDOWN")

Part = str | bytes | int


class Use(StrEnum):
    """Purpose of a command, used as a metric label."""

    TURNS = "turns"
    QUOTAS = "quotas"
    ANSWERS = "answers"


class Script:
    """A Lua script. The server caches scripts by hash."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha1 = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class _Call:
    command: Sequence[Part]
    reply: "asyncio.Future[Any]"


class ValkeyClient:
    """Sends commands of all callers over one connection."""

    def __init__(self, client: Valkey, deadline_seconds: float, probe_seconds: float) -> None:
        self._client = client
        self._deadline_seconds, self._probe_seconds = deadline_seconds, probe_seconds
        self._probe_key = f"tw:probe:{uuid.uuid4()}"
        self._calls: list[_Call] = []
        self._called, self._up = asyncio.Event(), asyncio.Event()
        # Optimistic start. `start` corrects the state by a probe.
        self._up.set()
        self._disconnected_at = 0.0
        self._refused: set[tuple[Use, Part]] = set()

    @property
    def connected(self) -> bool:
        """True while calls are sent."""
        return self._up.is_set()

    async def wait_until_connected(self) -> None:
        """Wait until Valkey is connected."""
        await self._up.wait()

    async def call(self, use: Use, *command: Part) -> Any:
        """Send a command and return its reply.

        Raises:
            StoreUnavailableError: Valkey is unavailable, full, or refuses this command. The command
                may have been executed nevertheless.
        """
        if not self.connected:
            VALKEY_ERRORS.labels(use, "away").inc()
            raise StoreUnavailableError
        call, started = (
            _Call(command, asyncio.get_running_loop().create_future()),
            time.perf_counter(),
        )
        self._calls.append(call)
        self._called.set()
        try:
            reply = await call.reply
        except StoreUnavailableError:
            VALKEY_ERRORS.labels(use, "lost").inc()
            raise
        VALKEY_SECONDS.labels(use).observe(time.perf_counter() - started)
        if isinstance(reply, NoScriptError):
            raise reply
        if isinstance(reply, ResponseError):
            # The cause is a defect or a foreign server. Counted always, logged once per command.
            VALKEY_ERRORS.labels(use, "refused").inc()
            if (use, command[0]) not in self._refused:
                self._refused.add((use, command[0]))
                log.error(
                    "valkey refused a command", extra=fields(use=use, command=str(command[0]))
                )
            raise StoreUnavailableError("the store shared by gateways refused a command")
        return reply

    async def run(self, use: Use, script: Script, keys: Sequence[str], *arguments: Part) -> Any:
        """Run a script and return its reply.

        Raises:
            StoreUnavailableError: As in `call`.
        """
        try:
            return await self.call(use, "EVALSHA", script.sha1, len(keys), *keys, *arguments)
        except NoScriptError:
            # The server has restarted and lost its script cache.
            return await self.call(use, "EVAL", script.text, len(keys), *keys, *arguments)

    async def serve(self) -> None:
        """Send waiting commands until cancelled."""
        while True:
            await self._called.wait()
            self._called.clear()
            # A failed batch clears the connection state, which ends this loop.
            while self._calls and self.connected:
                batch, self._calls = self._calls[:MAX_BATCH], self._calls[MAX_BATCH:]
                try:
                    replies = await self._execute([call.command for call in batch])
                except (ValkeyError, OSError, TimeoutError) as error:
                    self._disconnect(_reason(error))
                    self._refuse(batch)
                    continue
                for call, reply in zip(batch, replies, strict=True):
                    if refusal := _refusal(reply):
                        self._disconnect(refusal)
                        self._refuse([call])
                    # A cancelled caller has completed its future already.
                    elif not call.reply.done():
                        call.reply.set_result(reply)
            if not self.connected:
                while await self._probe():  # noqa: ASYNC110
                    await asyncio.sleep(self._probe_seconds)
                VALKEY_UP.labels("valkey").set(1)
                log.info(
                    "valkey available",
                    extra=fields(away_seconds=round(time.monotonic() - self._disconnected_at, 1)),
                )
                self._up.set()

    async def start(self) -> None:
        """Determine the initial state."""
        if reason := await self._probe():
            self._disconnect(reason)

    async def _execute(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        # A pipeline without MULTI: one write for the batch, and one reply per command.
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        # A reply already in the socket buffer counts even after the deadline. Otherwise a long
        # pause of the event loop would look like an outage.
        task: asyncio.Task[list[Any]] = asyncio.create_task(pipeline.execute(raise_on_error=False))
        try:
            await asyncio.wait({task}, timeout=self._deadline_seconds)
            for _ in range(ROUNDS_TO_READ):
                if task.done():
                    return task.result()
                await asyncio.sleep(0)
            raise TimeoutError
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _disconnect(self, reason: str) -> None:
        if self.connected:
            self._up.clear()
            self._disconnected_at = time.monotonic()
            VALKEY_UP.labels("valkey").set(0)
            log.warning("valkey unavailable", extra=fields(reason=reason))
        # Calls in the queue would time out one batch after the other, so all fail now.
        waiting, self._calls = self._calls, []
        self._refuse(waiting)
        self._called.set()

    @staticmethod
    def _refuse(calls: Sequence[_Call]) -> None:
        for call in calls:
            if not call.reply.done():
                call.reply.set_exception(StoreUnavailableError())

    async def _probe(self) -> str:
        """Return the reason for a failed probe, or an empty string.

        The probe is a write, because a full server must fail."""
        try:
            (reply,) = await self._execute(
                [("SET", self._probe_key, "1", "PX", PROBE_MILLISECONDS)]
            )
        except (ValkeyError, OSError, TimeoutError) as error:
            return _reason(error)
        if isinstance(reply, Exception):
            return _refusal(reply) or "refused"
        VALKEY_UP.labels("valkey").set(1)
        return ""

    def close(self) -> None:
        """Fail all waiting calls."""
        self._refuse(self._calls)


def _refusal(reply: object) -> str:
    if not isinstance(reply, Exception):
        return ""
    word = str(reply).partition(" ")[0]
    return REFUSALS.get(type(reply), word.lower() if word in REFUSAL_WORDS else "")


def _reason(error: Exception) -> str:
    return _refusal(error) or ("timeout" if isinstance(error, TimeoutError) else "unreachable")


@asynccontextmanager
async def open_valkey(
    url: str, *, deadline_seconds: float, probe_seconds: float = 0.25
) -> AsyncIterator[ValkeyClient]:
    """Open a client during the block, even if Valkey is unavailable."""
    client = Valkey.from_url(url, socket_timeout=None, socket_connect_timeout=deadline_seconds)
    valkey = ValkeyClient(client, deadline_seconds, probe_seconds)
    await valkey.start()
    serving = asyncio.create_task(valkey.serve())
    try:
        yield valkey
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        valkey.close()
        await client.aclose()
