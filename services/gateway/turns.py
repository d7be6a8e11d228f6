"""Running turns. A turn is a task of its own: a client that goes away is not a cancel, and one that
comes back misses nothing.

Events are kept in memory for a while after the end, so that any number of readers can resume after
a sequence. What is not here may be with another gateway.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

from services.chassis.admission import Admission
from services.chassis.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.chassis.identity import Caller, bind_call, current_call
from services.chassis.telemetry import fields
from services.gateway.events import TurnEvent
from services.gateway.metrics import HANDED_OVER, RESUMES, TURNS_RUNNING
from services.gateway.quotas import Quotas
from services.gateway.request import TurnRequest, wrong
from services.gateway.turn import Announcer, Turn

log = logging.getLogger(__name__)

# At shutdown: what session gets to take the answers that were stopped.
STORE_SECONDS = 3.0
# How long a user who erases their data waits for the ends of their turns.
STOP_SECONDS = 5.0


class OtherGateways(Protocol):
    """Turns that other gateways answer."""

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[TurnEvent, None]:
        """As `Turns.resume`. Raises: ServiceError, see there; StoreAwayError if nobody can say."""

    async def cancel(self, caller: Caller, message_id: str) -> bool:
        """Have a turn of the caller stopped; False if it does not run. Raises: StoreAwayError."""

    def hand_over(self) -> bool:
        """This process ends: send readers elsewhere. False if there is no elsewhere, or it cannot
        be reached.
        """


class Memories(Protocol):
    """What all gateways remember of turns, this one included."""

    def when_asked(self, forget: Callable[[str], Awaitable[None]]) -> None:
        """How this gateway forgets the turns of a user, named by `Caller.key`."""

    async def forget(self, caller_key: str) -> None:
        """Have all forget. Raises: UnavailableError, StoreAwayError: some may still remember."""


@dataclass(frozen=True)
class TurnLimits:
    """How long a turn may take, and what is kept of it."""

    turn_seconds: float
    keep_seconds: float
    max_kept_characters: int


@dataclass(frozen=True)
class Neighbours:
    """What a turn has to do with outside: other gateways, and the quotas that all of them share."""

    announcer: Announcer
    others: OtherGateways
    memories: Memories
    quotas: Quotas


class Turns:
    """The register of turns: running ones, and ended ones whose events are still kept."""

    def __init__(
        self,
        run: Callable[[Turn], Coroutine[Any, Any, None]],
        limits: TurnLimits,
        neighbours: Neighbours,
        admission: Admission,
    ) -> None:
        self._run, self._limits, self._admission = run, limits, admission
        self._announcer, self._others, self._quotas = (
            neighbours.announcer,
            neighbours.others,
            neighbours.quotas,
        )
        self._memories = neighbours.memories
        self._memories.when_asked(self.stop)
        self._tasks: dict[asyncio.Task[None], Turn] = {}
        self._by_message: dict[str, Turn] = {}
        self._by_request: dict[tuple[str, str], Turn] = {}
        # Ended turns, oldest first, with the timers that forget them.
        self._kept: dict[Turn, asyncio.TimerHandle] = {}
        self._kept_characters = 0
        self._closing = self._moving = False

    def start(self, caller: Caller, request: TurnRequest) -> Turn:
        """Run a turn, or return the one that this request_id began.

        Raises:
            AlreadyExistsError: the request_id was used with another payload.
            UnavailableError: this process ends.
        """
        key = (caller.key, request.request_id)
        if request.request_id and (known := self._by_request.get(key)):
            if known.request != request:
                raise AlreadyExistsError(
                    "request_id was used with another payload; the first stands",
                    field="request_id",
                    limit="one payload a request_id",
                )
            return known
        if self._closing:
            raise shutting_down()
        turn = Turn(caller, request, self._index, self._announcer)
        if request.request_id:
            self._by_request[key] = turn
        if self._moving:
            turn.hand_over()
        self._tasks[asyncio.create_task(self._drive(turn))] = turn
        return turn

    def find(self, caller: Caller, message_id: str) -> Turn | None:
        """The caller's turn, if this process answers it and its events are kept."""
        turn = self._by_message.get(message_id)
        return turn if turn and turn.caller == caller and not turn.mirrored else None

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[TurnEvent, None]:
        """Events of the caller's turn after a sequence, then live ones.

        Raises:
            NotFoundError: another user's, unknown, or no longer kept.
            InvalidArgumentError: the sequence was never sent.
            FailedPreconditionError: the answer began anew after its gateway was lost; only from 0.
            StoreAwayError: it is not this process' turn, and nobody can say whose.
        """
        turn = self.find(caller, message_id)
        if turn is None or not turn.started:
            RESUMES.labels("elsewhere").inc()
            return await self._others.resume(caller, message_id, after_sequence)
        RESUMES.labels("here").inc()
        if turn.anew and after_sequence:
            raise began_anew()
        if after_sequence > len(turn.events):
            raise wrong("after_sequence", f"at most the last sequence, {len(turn.events)}")
        return turn.events_after(after_sequence)

    async def cancel_elsewhere(self, caller: Caller, message_id: str) -> bool:
        """Stop a turn that another gateway answers; False if it does not run. Raises:
        StoreAwayError.
        """
        return await self._others.cancel(caller, message_id)

    async def stop(self, caller_key: str) -> None:
        """End all turns of a user here, and forget them once they have ended. Raises:
        UnavailableError: some still run.
        """
        running = {
            task: turn for task, turn in self._tasks.items() if turn.caller.key == caller_key
        }
        for turn in running.values():
            if turn.mirrored:
                turn.interrupt(nothing_kept())
            else:
                turn.cancel()
        if running and (await asyncio.wait(running, timeout=STOP_SECONDS))[1]:
            raise UnavailableError(
                "answers are still being stopped", reason="TURNS_STILL_RUN", retry_seconds=1
            )
        for turn in [kept for kept in self._kept if kept.caller.key == caller_key]:
            self._drop(turn)

    async def forget(self, caller_key: str) -> None:
        """The same in all gateways, and in what they share. Raises: UnavailableError,
        StoreAwayError: some may remember.
        """
        await self._memories.forget(caller_key)

    def hand_over(self) -> None:
        """This process drains: readers go on through other gateways, if there are any, while their
        turns end here. So do those whose call had come in before and begins its turn only now.
        """
        if not self._others.hand_over():
            return
        self._moving = True
        HANDED_OVER.inc(sum(turn.hand_over() for turn in self._tasks.values()))

    async def close(self, drain_seconds: float) -> None:
        """Let no new turn in, give running ones time to end, stop the rest, and wait until what was
        shown is stored.
        """
        self._closing = True
        for timer in self._kept.values():
            timer.cancel()
        for turn in [turn for turn in self._tasks.values() if turn.mirrored]:
            turn.interrupt(shutting_down())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=drain_seconds)
        for turn in self._tasks.values():
            turn.interrupt(shutting_down())
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=STORE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _index(self, turn: Turn) -> None:
        self._by_message[turn.message_id] = turn

    async def _drive(self, turn: Turn) -> None:
        # The turn outlives the call that began it, and so has a deadline of its own.
        bind_call(replace(current_call(), deadline=time.monotonic() + self._limits.turn_seconds))
        TURNS_RUNNING.inc()
        try:
            async with self._admission.admitted("turn") as ticket:
                turn.when_admitted(
                    on_text=lambda: self._admission.answered(ticket),
                    on_doubt=lambda: self._admission.exempt(ticket),
                )
                turn.reservation = await self._quotas.admit(turn.caller, turn.request)
                await self._run(turn)
        except ServiceError as error:
            turn.fail(error)
        except Exception:
            # The last line of defence, as in the chassis: readers must not wait for ever.
            log.exception("turn failed", extra=fields(message_id=turn.message_id))
            turn.fail(ServiceError("internal error"))
        finally:
            TURNS_RUNNING.dec()
            turn.fail(turn.interruption or shutting_down())
            turn.reservation.settle(turn.tokens)
            self._retire(turn)

    def _retire(self, turn: Turn) -> None:
        for task in [task for task, running in self._tasks.items() if running is turn]:
            del self._tasks[task]
        if not turn.started or turn.mirrored or turn.superseded:
            # Nothing of ours was shown: the same request_id may try again.
            self._forget(turn)
            return
        self._kept[turn] = asyncio.get_running_loop().call_later(
            self._limits.keep_seconds, self._drop, turn
        )
        self._kept_characters += len(turn.text)
        while self._kept_characters > self._limits.max_kept_characters and len(self._kept) > 1:
            self._drop(next(iter(self._kept)))

    def _drop(self, turn: Turn) -> None:
        if timer := self._kept.pop(turn, None):
            timer.cancel()
            self._kept_characters -= len(turn.text)
            self._forget(turn)

    def _forget(self, turn: Turn) -> None:
        key = (turn.caller.key, turn.request.request_id)
        if self._by_request.get(key) is turn:
            del self._by_request[key]
        if self._by_message.get(turn.message_id) is turn:
            del self._by_message[turn.message_id]


def shutting_down() -> UnavailableError:
    """This process ends."""
    return UnavailableError("the gateway is shutting down", reason="SHUTTING_DOWN", retry_seconds=2)


def nothing_kept() -> NotFoundError:
    """Another user's, unknown, or long ago: all the same."""
    return NotFoundError("no events are kept of this message", field="message_id")


def began_anew() -> FailedPreconditionError:
    """Sequences of an earlier attempt mean nothing in this one."""
    return FailedPreconditionError(
        "the answer began anew after its gateway was lost: read it from the beginning",
        reason="ANSWER_BEGAN_ANEW",
        field="after_sequence",
        limit="0",
    )
