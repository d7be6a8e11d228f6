"""End of a turn in one transaction: the answer, and the turn record in the outbox."""

from collections.abc import Callable
from dataclasses import replace

from services.chassis.errors import FailedPreconditionError
from services.chassis.identity import Caller
from services.contracts.chat import FinishReason, Role
from services.contracts.limits import field_error
from services.session.limits import check_answer
from services.session.message import Answer
from services.session.relay.turn_record import TurnRecorder, is_published
from services.session.store.store import OwnedRows, Store
from services.session.turns.context import merge_roles
from services.session.turns.tokens import TokenCounter


class TurnFinisher:
    """Domain logic of FinishTurn; `wake` notifies the relay of a new record in the outbox."""

    def __init__(
        self,
        store: Store,
        counter: TokenCounter,
        recorder: TurnRecorder,
        now_us: Callable[[], int],
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._counter = counter
        self._recorder = recorder
        self._now_us = now_us
        self._wake = wake

    async def finish(self, owner: Caller, answer: Answer) -> None:
        """Store the answer; a repetition with the same text changes nothing.

        Raises:
            InvalidArgumentError: a value is out of range, or the message is not an answer.
            NotFoundError: the message is missing or belongs to another user.
            FailedPreconditionError: the answer was finished with another text.
        """
        check_answer(answer)
        (tokens,) = await self._counter.count([answer.text])
        await self._store.write(owner, lambda rows: self._finish(rows, owner, answer, tokens))
        self._wake()

    def _finish(self, rows: OwnedRows, owner: Caller, answer: Answer, tokens: int) -> None:
        # Lock the conversation, so that one of two concurrent calls sees the answer of the other.
        rows.conversation_of_message(answer.message_id)
        message = rows.message(answer.message_id)
        if message.role is not Role.ASSISTANT:
            raise field_error("assistant_message_id", "an answer")
        if message.finish_reason is not FinishReason.OPEN:
            if message.text != answer.text:
                raise FailedPreconditionError(
                    "the answer was finished with another text",
                    reason="ALREADY_FINISHED",
                    field="text",
                )
            return
        now = self._now_us()
        finished = replace(
            message,
            text=answer.text,
            tokens=tokens,
            model_version=answer.model_version,
            arm=answer.arm,
            finish_reason=answer.finish_reason,
        )
        rows.replace_answer(finished, now)
        if is_published(finished):
            # The last message of the context is the user's message of this turn.
            context = rows.messages_by_id(message.context_ids)
            record = self._recorder.finished(
                owner, context[-1], message, answer, merge_roles(context), now
            )
            rows.enqueue([(message.conversation_id, record)])
