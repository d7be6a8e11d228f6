"""Running turns and the recorded events of ended turns.

A turn runs in its own task. A disconnected client does not cancel the turn and can resume without
loss. Events stay in memory for a limited time after the end, so that any number of readers can
resume after a sequence. Other turns may be available in another gateway.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from thumbwheel.chat.v1 import chat_pb2

from services.chassis.admission import Admission, Priority
from services.chassis.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    ServiceError,
    UnavailableError,
)
from services.chassis.identity import Caller, bind_call, current_call
from services.chassis.telemetry import fields
from services.contracts.limits import field_error
from services.gateway.metrics import HANDED_OVER, RESUMES, TURNS_RUNNING
from services.gateway.quotas.quotas import Quotas
from services.gateway.turns.request import TurnRequest
from services.gateway.turns.turn import Announcer, Claim, Turn

log = logging.getLogger(__name__)

# Time limit at shutdown for storing the answers that were stopped.
STORE_SECONDS = 3.0
# Longest wait for running turns when a user erases their data.
STOP_SECONDS = 5.0


class RemoteTurns(Protocol):
    """Turns that other gateways answer."""

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        """Resume a turn, as in `Turns.resume`.

        Raises:
            ServiceError: As listed in `Turns.resume`.
            StoreUnavailableError: The shared store is unavailable.
        """

    async def cancel(self, caller: Caller, message_id: str) -> bool:
        """Stop a turn of the caller. Returns False if the turn is not running.

        Raises:
            StoreUnavailableError: The shared store is unavailable.
        """

    def hand_over(self) -> bool:
        """Send readers to other gateways before this process ends.

        Returns False if no other gateway exists or the shared store is unreachable.
        """


class TurnHistory(Protocol):
    """Recorded turns of all gateways, including this one."""

    def on_forget(self, forget: Callable[[str], Awaitable[None]]) -> None:
        """Set the function for removing the turns of a user (`Caller.key`) from this gateway."""

    async def forget(self, caller_key: str) -> None:
        """Remove a user's turns from all gateways.

        Raises:
            UnavailableError: A gateway may still have turns of the user.
            StoreUnavailableError: The shared store is unavailable.
        """


@dataclass(frozen=True)
class TurnLimits:
    """Time limit of a turn, and limits of the recorded events."""

    turn_seconds: float
    keep_seconds: float
    max_kept_characters: int


@dataclass(frozen=True)
class SharedState:
    """Interfaces to other gateways, and the quotas common to all."""

    announcer: Announcer
    remote: RemoteTurns
    history: TurnHistory
    quotas: Quotas


class Turns:
    """Register of running turns and of ended turns with recorded events."""

    def __init__(
        self,
        run: Callable[[Turn], Coroutine[Any, Any, None]],
        limits: TurnLimits,
        shared_state: SharedState,
        admission: Admission,
    ) -> None:
        self._run, self._limits, self._admission = run, limits, admission
        self._announcer, self._remote, self._quotas = (
            shared_state.announcer,
            shared_state.remote,
            shared_state.quotas,
        )
        self._history = shared_state.history
        self._history.on_forget(self.stop)
        self._tasks: dict[asyncio.Task[None], Turn] = {}
        self._by_message: dict[str, Turn] = {}
        self._by_request: dict[tuple[str, str], Turn] = {}
        # Ended turns, oldest first, with their removal timers.
        self._kept: dict[Turn, asyncio.TimerHandle] = {}
        self._kept_characters = 0
        self._closing = self._handing_over = False

    def start(self, caller: Caller, request: TurnRequest) -> Turn:
        """Run a turn, or return the turn that began with the same request_id.

        Raises:
            AlreadyExistsError: The request_id was used with another payload.
            UnavailableError: This process is shutting down.
        """
        key = (caller.key, request.request_id)
        if request.request_id and (known := self._by_request.get(key)):
            # The same request_id with the same payload is a retry of the client.
            if known.request != request:
                raise AlreadyExistsError(
                    "request_id was already used with another payload",
                    field="request_id",
                    limit="one payload per request_id",
                )
            return known
        if self._closing:
            raise shutting_down()
        turn = Turn(caller, request, self._index, self._announcer)
        turn.count_reader = partial(self._quotas.reading, caller)
        if request.request_id:
            self._by_request[key] = turn
        # The call was accepted before the drain, so its readers move as well.
        if self._handing_over:
            turn.hand_over()
        self._tasks[asyncio.create_task(self._run_turn(turn))] = turn
        return turn

    def find(self, caller: Caller, message_id: str) -> Turn | None:
        """Return the caller's turn if this process answers and still records the events."""
        turn = self._by_message.get(message_id)
        return turn if turn and turn.caller == caller and not turn.following else None

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        """Yield events of the caller's turn after a sequence, then live events.

        The first event raises QuotaError if the user or the tenant has too many readers.

        Raises:
            NotFoundError: The turn is unknown, belongs to another user, or has expired.
            InvalidArgumentError: The sequence was never sent.
            FailedPreconditionError: The answer restarted after the loss of a gateway. Only sequence
                0 can be resumed.
            StoreUnavailableError: The turn is not local and the shared store is unavailable.
        """
        turn = self.find(caller, message_id)
        if turn is None or not turn.started:
            RESUMES.labels("elsewhere").inc()
            return self._counted(
                caller, await self._remote.resume(caller, message_id, after_sequence)
            )
        RESUMES.labels("here").inc()
        if turn.restarted and after_sequence:
            raise answer_restarted()
        if after_sequence > len(turn.events):
            raise field_error("after_sequence", f"at most the last sequence, {len(turn.events)}")
        return turn.events_after(after_sequence)

    async def _counted(
        self, caller: Caller, events: AsyncGenerator[chat_pb2.ChatEvent, None]
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        with self._quotas.reading(caller):
            async with aclosing(events):
                async for event in events:
                    yield event

    async def cancel_elsewhere(self, caller: Caller, message_id: str) -> bool:
        """Stop a turn of another gateway. Returns False if the turn is not running.

        Raises:
            StoreUnavailableError: The shared store is unavailable.
        """
        return await self._remote.cancel(caller, message_id)

    async def stop(self, caller_key: str) -> None:
        """End all local turns of a user and remove their events.

        Raises:
            UnavailableError: A turn is still running after the time limit.
        """
        # Followed turns of the user end as missing, local ones as cancelled.
        running = {
            task: turn for task, turn in self._tasks.items() if turn.caller.key == caller_key
        }
        for turn in running.values():
            if turn.following:
                turn.interrupt(turn_not_found())
            else:
                turn.cancel()
        if running and (await asyncio.wait(running, timeout=STOP_SECONDS))[1]:
            raise UnavailableError(
                "turns are still being stopped", reason="TURNS_STILL_RUN", retry_seconds=1
            )
        for turn in [kept for kept in self._kept if kept.caller.key == caller_key]:
            self._evict(turn)

    async def forget(self, caller_key: str) -> None:
        """Remove a user's turns from all gateways and from the shared store.

        Raises:
            UnavailableError: A gateway may still have turns of the user.
            StoreUnavailableError: The shared store is unavailable.
        """
        await self._history.forget(caller_key)

    def hand_over(self) -> None:
        """Send readers to other gateways when this process drains. Their turns end here.

        The same applies to calls that were accepted before and begin their turn only now.
        """
        if not self._remote.hand_over():
            return
        self._handing_over = True
        HANDED_OVER.inc(sum(turn.hand_over() for turn in self._tasks.values()))

    async def close(self, drain_seconds: float) -> None:
        """Reject new turns, wait for running turns, stop the rest, and wait for storage."""
        self._closing = True
        for timer in self._kept.values():
            timer.cancel()
        for turn in [turn for turn in self._tasks.values() if turn.following]:
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

    async def _run_turn(self, turn: Turn) -> None:
        # The turn may outlive the call that began it, so the deadline of that call must not apply.
        bind_call(replace(current_call(), deadline=time.monotonic() + self._limits.turn_seconds))
        TURNS_RUNNING.inc()
        try:
            # Battles are evaluation traffic, which gives way to chats.
            priority = Priority.BATCH if turn.request.is_battle else Priority.INTERACTIVE
            async with self._admission.admitted("turn", priority) as ticket:
                turn.set_admission_callbacks(
                    on_text=lambda: self._admission.answered(ticket),
                    on_doubt=lambda: self._admission.exempt(ticket),
                )
                turn.reservation = await self._quotas.admit(turn.caller, turn.request)
                await self._run(turn)
        except ServiceError as error:
            turn.fail(error)
        except Exception:
            # Last resort, as in the chassis. Without an error event the readers would wait without
            # end.
            log.exception("turn failed", extra=fields(message_id=turn.message_id))
            turn.fail(ServiceError("internal error"))
        finally:
            TURNS_RUNNING.dec()
            # No effect on a turn that has ended regularly.
            turn.fail(turn.interruption or shutting_down())
            turn.reservation.settle(turn.tokens)
            self._retire(turn)

    def _retire(self, turn: Turn) -> None:
        # At most one task per turn. A list, because the loop changes the dict.
        for task in [task for task, running in self._tasks.items() if running is turn]:
            del self._tasks[task]
        if not turn.started or turn.following or turn.superseded:
            # No local text was visible, so a retry with the same request_id may run again.
            self._forget(turn)
            return
        self._kept[turn] = asyncio.get_running_loop().call_later(
            self._limits.keep_seconds, self._evict, turn
        )
        self._kept_characters += len(turn.text)
        # The newest turn stays, even if longer than the limit.
        while self._kept_characters > self._limits.max_kept_characters and len(self._kept) > 1:
            self._evict(next(iter(self._kept)))

    def _evict(self, turn: Turn) -> None:
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
    """Return the error for calls during shutdown."""
    return UnavailableError("the gateway is shutting down", reason="SHUTTING_DOWN", retry_seconds=2)


def turn_not_found() -> NotFoundError:
    """Return the same error for unknown, expired and foreign turns, to hide the turns of others."""
    return NotFoundError("no recorded events of this message", field="message_id")


def answer_restarted() -> FailedPreconditionError:
    """Return the error for a sequence of an earlier attempt, which is meaningless in this one."""
    return FailedPreconditionError(
        "the answer restarted after its gateway was lost: read from sequence 0",
        reason="ANSWER_BEGAN_ANEW",
        field="after_sequence",
        limit="0",
    )


class SingleReplica:
    """Implements `turn.Announcer`, `turns.RemoteTurns` and `turns.TurnHistory` for one process."""

    def __init__(self) -> None:
        self._forget: Callable[[str], Awaitable[None]] | None = None

    async def claim(self, turn: Turn, *, in_doubt: bool) -> Claim:
        return Claim.OURS

    def announce(self, turn: Turn) -> None:
        pass

    async def follow(self, turn: Turn) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        raise turn_not_found()
        yield

    async def resume(
        self, caller: Caller, message_id: str, after_sequence: int
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        raise turn_not_found()

    async def cancel(self, caller: Caller, message_id: str) -> bool:
        return False

    def hand_over(self) -> bool:
        return False

    def on_forget(self, forget: Callable[[str], Awaitable[None]]) -> None:
        self._forget = forget

    async def forget(self, caller_key: str) -> None:
        if self._forget:
            await self._forget(caller_key)
