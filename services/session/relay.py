"""Turn records for training: their content, and their relay to the feedback service.

Every answer of a model is published. A turn without a model version is not published, because its
text is not from a model: the input was blocked, or the turn failed before the choice of a version.

Records are relayed in order and at least once. A row is removed after its acknowledgement. The
feedback service recognises events by id, so that a batch sent twice counts once. One of several
replicas relays.
"""

import asyncio
import collections
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client import Counter, Gauge
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2
from thumbwheel.session.v1 import session_pb2

from services.chassis.channel import call_unary
from services.chassis.errors import AlreadyExistsError, InvalidArgumentError, ServiceError
from services.chassis.identity import Caller
from services.chassis.retries import retry_delay
from services.chassis.telemetry import fields
from services.contracts.chat import FinishReason
from services.contracts.identifiers import ERASED, FINISHED, principal_of, turn_event_id
from services.contracts.wire import FINISH_REASON_NUMBERS, ROLE_NUMBERS, TASK_NUMBERS, timestamp
from services.session.context import merge_roles
from services.session.message import Message
from services.session.store.database import DatabaseError
from services.session.store.outbox import MAX_BATCH_TURNS, Outbox, OutboxRow

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.25
# Errors about the content of one record; a retry is useless.
PERMANENT = (InvalidArgumentError, AlreadyExistsError)
# Failed calls with one row alone before later rows are tried.
ATTEMPTS_ALONE = 5

RELAYED = Counter(
    "thumbwheel_session_turns_relayed_total",
    "Turn records acknowledged by the feedback service.",
)
REFUSED = Counter(
    "thumbwheel_session_turns_refused_total",
    "Turn records set aside: invalid, known with another content, or failing alone repeatedly.",
)
WAITING = Gauge(
    "thumbwheel_session_outbox_turns", "Turn records that wait for the feedback service."
)


class TurnRecorder:
    """Creates turn records and serialises them deterministically as TurnEvent."""

    def __init__(self, principal_key: str) -> None:
        self._key = principal_key

    def finished(
        self,
        owner: Caller,
        question: Message,
        finished: Message,
        answer: session_pb2.FinishTurnRequest,
        context: Sequence[Message],
        now_us: int,
    ) -> bytes:
        """Return the record of a finished turn; `context` is exactly the input of the model."""
        event = events_pb2.TurnEvent(
            event_id=turn_event_id(answer.assistant_message_id, FINISHED),
            tenant=owner.tenant,
            principal=principal_of(self._key, owner),
            conversation_id=question.conversation_id,
            user_message_id=question.id,
            message_id=answer.assistant_message_id,
            context=[
                chat_pb2.HistoryMessage(role=ROLE_NUMBERS[message.role], text=message.text)
                for message in merge_roles(context)
            ],
            original_text=question.original_text,
            answer=answer.text,
            finish_reason=answer.finish_reason,
            model_version=answer.model_version,
            arm=answer.arm,
            assignment_probability=answer.assignment_probability,
            task=TASK_NUMBERS[finished.task],
            temperature=answer.temperature,
            top_p=answer.top_p,
            usage=chat_pb2.Usage(
                prompt_tokens=answer.usage.prompt_tokens,
                completion_tokens=answer.usage.completion_tokens,
            ),
            policy_version=answer.policy_version,
            guard_category=answer.guard_category,
            finish_time=timestamp(now_us),
            cached=answer.usage.cached,
            sample=answer.sample if answer.HasField("sample") else None,
            parent_message_id=question.parent_id,
        )
        return event.SerializeToString(deterministic=True)

    def erased(self, owner: Caller, answer: Message, now_us: int) -> bytes:
        """Return the record that erases a turn: ids and version, without text."""
        event = events_pb2.TurnEvent(
            event_id=turn_event_id(answer.id, ERASED),
            tenant=owner.tenant,
            principal=principal_of(self._key, owner),
            conversation_id=answer.conversation_id,
            user_message_id=answer.parent_id,
            message_id=answer.id,
            finish_reason=FINISH_REASON_NUMBERS[answer.finish_reason],
            model_version=answer.model_version,
            arm=answer.arm,
            task=TASK_NUMBERS[answer.task],
            # Present and empty, as in the records of earlier releases.
            usage=chat_pb2.Usage(),
            finish_time=timestamp(now_us),
            erased=True,
        )
        return event.SerializeToString(deterministic=True)


def is_published(message: Message) -> bool:
    """Return True if a turn record of this answer is published."""
    return bool(message.model_version) and message.finish_reason is not FinishReason.OPEN


class TurnLog(Protocol):
    """Destination of turn records."""

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Append encoded records; return when the records are durable.

        Raises:
            InvalidArgumentError: a record is invalid; a retry is useless.
            ServiceError: the records were not appended; a retry may succeed.
        """


class FeedbackTurnLog:
    """Implementation of `TurnLog` with the method AppendTurns of the feedback service."""

    def __init__(self, append_turns: Any, timeout_seconds: float) -> None:
        self._append = append_turns
        self._timeout_seconds = timeout_seconds

    async def append(self, payloads: Sequence[bytes]) -> None:
        """Append records to the log of the feedback service."""
        turns = [events_pb2.TurnEvent.FromString(payload) for payload in payloads]
        request = feedback_pb2.AppendTurnsRequest(turns=turns)
        await call_unary("feedback", self._append, request, within_seconds=self._timeout_seconds)


@dataclass(frozen=True)
class RelayIntervals:
    """Intervals of the relay, in seconds.

    Args:
        poll_seconds: longest time between two reads of the outbox.
        linger_seconds: time during which records collect for one batch.
        max_backoff_seconds: longest pause after a failure.
        lease_renewal_seconds: time between two renewals of the lease during a call.
    """

    poll_seconds: float
    linger_seconds: float
    max_backoff_seconds: float
    lease_renewal_seconds: float


class Relay:
    """Background task that moves rows from the outbox to the turn log."""

    def __init__(self, outbox: Outbox, turn_log: TurnLog, intervals: RelayIntervals) -> None:
        self._outbox = outbox
        self._log = turn_log
        self._intervals = intervals
        self._new_records = asyncio.Event()
        self._max_rows, self._failed = MAX_BATCH_TURNS, False
        self._attempts_by_row: collections.Counter[int] = collections.Counter()

    def wake(self) -> None:
        """Report new records in the outbox."""
        self._new_records.set()

    async def run(self) -> None:
        """Relay until cancelled; back off while the feedback service or database is unavailable."""
        failures = 0
        while True:
            # Cleared before the read: a record that is added during the read wakes the relay again.
            self._new_records.clear()
            try:
                while await self.relay_batch():
                    pass
            except (ServiceError, DatabaseError) as error:
                failures += 1
                log.warning(
                    "turns wait in the outbox",
                    extra=fields(error=type(error).__name__, failures=failures),
                )
                longest = self._intervals.max_backoff_seconds
                await asyncio.sleep(retry_delay(failures, FIRST_BACKOFF_SECONDS, longest))
                continue
            failures = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(self._intervals.poll_seconds):
                    await self._new_records.wait()
                # Work at the end of a turn would delay the first token of the next turn.
                await asyncio.sleep(self._intervals.linger_seconds)

    async def relay_batch(self) -> bool:
        """Relay one batch; return True if more records may wait.

        After repeated failures each batch has half the rows, so that a bad row is soon alone.

        Raises:
            ServiceError: the turn log or the database failed; rows without acknowledgement remain.
        """
        batch = await self._outbox.claim()
        WAITING.set(batch.waiting)
        if not batch.rows:
            return False
        if suspects := self._suspects(batch.rows):
            await self._relay_behind(suspects, batch.rows[len(suspects) :])
            return True
        rows = batch.rows[: self._max_rows]
        is_last = len(rows) == batch.waiting
        if len(rows) == 1:
            await self._append_alone(rows[0], release=is_last)
        else:
            try:
                await self._append(rows)
            except PERMANENT:
                for row in rows:
                    await self._append_alone(row)
                return True
            except ServiceError:
                # Most outages last for one call or for all: the whole batch gets one more attempt.
                self._max_rows = len(rows) // 2 if self._failed else self._max_rows
                self._failed = True
                raise
            await self._acknowledged(rows, release=is_last)
        self._failed = False
        self._max_rows = min(2 * self._max_rows, MAX_BATCH_TURNS)
        return not is_last

    def _suspects(self, rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
        """Return the leading rows that have failed alone too often."""
        waiting_ids = {row.id for row in rows}
        for row_id in self._attempts_by_row.keys() - waiting_ids:
            # Removed by another replica, or erased with the conversation.
            del self._attempts_by_row[row_id]
        is_suspect = [self._attempts_by_row[row.id] >= ATTEMPTS_ALONE for row in rows]
        return rows[: [*is_suspect, False].index(False)]

    async def _relay_behind(
        self, suspects: Sequence[OutboxRow], later: Sequence[OutboxRow]
    ) -> None:
        """Relay the oldest row behind rows that fail alone, and then set those rows aside.

        An acknowledgement of a later row proves that the turn log works. Each suspect gets one more
        attempt after this proof, since an outage may have ended just before it.

        Raises:
            ServiceError: the later row failed as well, for example in an outage.
        """
        # At the end of an outage this attempt succeeds first, which keeps the order of the rows.
        try:
            await self._append_alone(suspects[0])
        except ServiceError:
            if not later:
                raise
        else:
            return
        await self._append_alone(later[0])
        for row in suspects:
            try:
                await self._append([row])
            except ServiceError as error:
                await self._set_aside(row, error)
            else:
                await self._acknowledged([row], release=False)

    async def _append_alone(self, row: OutboxRow, *, release: bool = False) -> None:
        """Append one row, and set a row with a permanent error aside.

        Such a row would otherwise block all later rows.

        Raises:
            ServiceError: any other error, counted for this row.
        """
        try:
            await self._append([row])
        except PERMANENT as error:
            await self._set_aside(row, error)
        except ServiceError:
            self._attempts_by_row[row.id] += 1
            raise
        else:
            await self._acknowledged([row], release=release)

    async def _acknowledged(self, rows: Sequence[OutboxRow], *, release: bool) -> None:
        """Remove acknowledged rows from the outbox, and forget their failures."""
        await self._outbox.remove(rows, release=release)
        for row in rows:
            self._attempts_by_row.pop(row.id, None)
        RELAYED.inc(len(rows))
        WAITING.dec(len(rows))

    async def _set_aside(self, row: OutboxRow, error: ServiceError) -> None:
        """Mark a row as refused; the row stays in the outbox for inspection."""
        await self._outbox.refuse(row)
        self._attempts_by_row.pop(row.id, None)
        REFUSED.inc()
        log.error(
            "turn record refused by the feedback service",
            extra=fields(row=row.id, reason=error.reason, field=error.field),
        )

    async def _append(self, rows: Sequence[OutboxRow]) -> None:
        """Append rows to the turn log; renew the lease during a long call."""
        sending = asyncio.create_task(self._log.append([row.payload for row in rows]))
        renewal_seconds = self._intervals.lease_renewal_seconds
        try:
            while not (await asyncio.wait({sending}, timeout=renewal_seconds))[0]:
                await self._outbox.renew_lease()
        finally:
            # No effect on a finished call; stops the call if the lease cannot be renewed.
            sending.cancel()
        await sending
