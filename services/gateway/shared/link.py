"""The way to Valkey: one connection for all, and one opinion on whether Valkey is there.

Commands of all callers that wait at the same time are written together, by a task of its own: a
caller that is cancelled never leaves a reply behind for the next. A batch has a short deadline. The
first one that fails tells everybody: until a probe has been written, every call is refused at once.
"""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
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
from services.gateway.shared_store import StoreAwayError

log = logging.getLogger(__name__)

MAX_BATCH = 500
PROBE_MILLISECONDS = 1_000
ROUNDS_TO_READ = 20
# Replies that mean: not now, whatever the command. The client knows the first ones as types, the
# others by their first word.
REFUSALS: Mapping[type[Exception], str] = {
    OutOfMemoryError: "full",
    ReadOnlyError: "read_only",
    BusyLoadingError: "loading",
}
REFUSAL_WORDS = ("MISCONF", "BUSY", "NOREPLICAS", "MASTERDOWN")

Part = str | bytes | int


class Use(StrEnum):
    """What a command is for; a label."""

    TURNS = "turns"
    QUOTAS = "quotas"
    ANSWERS = "answers"


class Script:
    """A Lua script, known to the server by its hash."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha1 = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class _Call:
    command: Sequence[Part]
    reply: "asyncio.Future[Any]"


class Link:
    """Calls Valkey."""

    def __init__(self, client: Valkey, deadline_seconds: float, probe_seconds: float) -> None:
        self._client = client
        self._deadline_seconds, self._probe_seconds = deadline_seconds, probe_seconds
        self._probe_key = f"tw:probe:{uuid.uuid4()}"
        self._calls: list[_Call] = []
        self._called, self._up = asyncio.Event(), asyncio.Event()
        self._up.set()
        self._lost_at = 0.0
        self._refused: set[tuple[Use, Part]] = set()

    @property
    def up(self) -> bool:
        """Whether calls are tried."""
        return self._up.is_set()

    async def returned(self) -> None:
        """Wait until Valkey is there."""
        await self._up.wait()

    async def call(self, use: Use, *command: Part) -> Any:
        """The reply to a command.

        Raises:
            StoreAwayError: Valkey is away, full, or refuses this command. It may have been executed
                all the same.
        """
        if not self.up:
            VALKEY_ERRORS.labels(use, "away").inc()
            raise StoreAwayError
        call, started = _Call(command, asyncio.get_running_loop().create_future()), time.perf_counter()
        self._calls.append(call)
        self._called.set()
        try:
            reply = await call.reply
        except StoreAwayError:
            VALKEY_ERRORS.labels(use, "lost").inc()
            raise
        VALKEY_SECONDS.labels(use).observe(time.perf_counter() - started)
        if isinstance(reply, NoScriptError):
            raise reply
        if isinstance(reply, ResponseError):
            self._note_refused(use, command[0])
            raise StoreAwayError("the store that gateways share refused a command")
        return reply

    def _note_refused(self, use: Use, command: Part) -> None:
        """A defect, or a server that is not ours: said once, counted always."""
        VALKEY_ERRORS.labels(use, "refused").inc()
        if (use, command) not in self._refused:
            self._refused.add((use, command))
            log.error("valkey refused a command", extra=fields(use=use, command=str(command)))

    async def run(self, use: Use, script: Script, keys: Sequence[str], *arguments: Part) -> Any:
        """The reply of a script. Raises: StoreAwayError."""
        try:
            return await self.call(use, "EVALSHA", script.sha1, len(keys), *keys, *arguments)
        except NoScriptError:
            # The server has started anew since.
            return await self.call(use, "EVAL", script.text, len(keys), *keys, *arguments)

    async def serve(self) -> None:
        """Send what is called, for ever."""
        while True:
            await self._called.wait()
            self._called.clear()
            while self._calls and self.up:
                batch, self._calls = self._calls[:MAX_BATCH], self._calls[MAX_BATCH:]
                await self._send(batch)
            if not self.up:
                await self._come_back()

    async def start(self) -> None:
        """The first opinion."""
        if reason := await self._probe():
            self._lose(reason)

    async def _send(self, batch: Sequence[_Call]) -> None:
        try:
            replies = await self._execute([call.command for call in batch])
        except (ValkeyError, OSError, TimeoutError) as error:
            self._lose(_reason(error))
            self._refuse(batch)
            return
        for call, reply in zip(batch, replies, strict=True):
            if refusal := _refusal(reply):
                self._lose(refusal)
                self._refuse([call])
            elif not call.reply.done():
                call.reply.set_result(reply)

    async def _execute(self, commands: Sequence[Sequence[Part]]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return await _within(self._deadline_seconds, pipeline.execute(raise_on_error=False))

    def _lose(self, reason: str) -> None:
        if self.up:
            self._up.clear()
            self._lost_at = time.monotonic()
            VALKEY_UP.labels("valkey").set(0)
            log.warning("valkey away", extra=fields(reason=reason))
        waiting, self._calls = self._calls, []
        self._refuse(waiting)
        self._called.set()

    @staticmethod
    def _refuse(calls: Sequence[_Call]) -> None:
        for call in calls:
            if not call.reply.done():
                call.reply.set_exception(StoreAwayError())

    async def _come_back(self) -> None:
        while await self._probe():
            await asyncio.sleep(self._probe_seconds)
        VALKEY_UP.labels("valkey").set(1)
        log.info("valkey back", extra=fields(away_seconds=round(time.monotonic() - self._lost_at, 1)))
        self._up.set()

    async def _probe(self) -> str:
        """Why Valkey cannot be used; empty if it can. It is written to: one that is full must not
        count as there.
        """
        try:
            (reply,) = await self._execute([("SET", self._probe_key, "1", "PX", PROBE_MILLISECONDS)])
        except (ValkeyError, OSError, TimeoutError) as error:
            return _reason(error)
        if isinstance(reply, Exception):
            return _refusal(reply) or "refused"
        VALKEY_UP.labels("valkey").set(1)
        return ""

    def close(self) -> None:
        """Nobody sends any more."""
        self._refuse(self._calls)


async def _within(seconds: float, work: Coroutine[Any, Any, list[Any]]) -> list[Any]:
    """The result of the work. Raises: TimeoutError.

    A reply that lies in the socket counts, even if this process was too busy to read it in time:
    else every long pause of the event loop would look like an absence.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        for _ in range(ROUNDS_TO_READ):
            if task.done():
                return task.result()
            await asyncio.sleep(0)
        raise TimeoutError
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _refusal(reply: object) -> str:
    if not isinstance(reply, Exception):
        return ""
    word = str(reply).partition(" ")[0]
    return REFUSALS.get(type(reply), word.lower() if word in REFUSAL_WORDS else "")


def _reason(error: Exception) -> str:
    return _refusal(error) or ("timeout" if isinstance(error, TimeoutError) else "unreachable")


@asynccontextmanager
async def open_link(url: str, *, deadline_seconds: float, probe_seconds: float = 0.25) -> AsyncIterator[Link]:
    """A link, whether Valkey is there or not."""
    client = Valkey.from_url(url, socket_timeout=None, socket_connect_timeout=deadline_seconds)
    link = Link(client, deadline_seconds, probe_seconds)
    await link.start()
    serving = asyncio.create_task(link.serve())
    try:
        yield link
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
        link.close()
        await client.aclose()
