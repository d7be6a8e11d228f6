"""Turn records for training, and their erasure.

Every answer of a model is published. A turn without a model version is not published, because its
text is not from a model: the input was blocked, or the turn failed before the choice of a version.
"""

from collections.abc import Callable, Sequence

from services.chassis.identity import Caller
from services.contracts.chat import ContextMessage, FinishReason
from services.contracts.identifiers import ERASED, FINISHED, principal_of, turn_event_id
from services.session.message import Answer, Message, TurnRecord

Encode = Callable[[TurnRecord], bytes]


class TurnRecorder:
    """Creates turn records; `encode` serialises a record for the feedback service."""

    def __init__(self, principal_key: str, encode: Encode) -> None:
        self._key = principal_key
        self._encode = encode

    def finished(
        self,
        owner: Caller,
        question: Message,
        open_answer: Message,
        answer: Answer,
        context: Sequence[ContextMessage],
        now_us: int,
    ) -> bytes:
        """Return the record of a finished turn; `context` is exactly the input of the model."""
        record = TurnRecord(
            event_id=turn_event_id(answer.message_id, FINISHED),
            tenant=owner.tenant,
            principal=principal_of(self._key, owner),
            conversation_id=question.conversation_id,
            user_message_id=question.id,
            answer=answer,
            finish_us=now_us,
            task=open_answer.task,
            context=tuple(context),
            original_text=question.original_text,
        )
        return self._encode(record)

    def erased(self, owner: Caller, answer: Message, now_us: int) -> bytes:
        """Return the record that erases a turn: ids and version, without text."""
        record = TurnRecord(
            event_id=turn_event_id(answer.id, ERASED),
            tenant=owner.tenant,
            principal=principal_of(self._key, owner),
            conversation_id=answer.conversation_id,
            user_message_id=answer.parent_id,
            answer=Answer(answer.id, "", answer.finish_reason, answer.model_version, answer.arm),
            finish_us=now_us,
            task=answer.task,
            erased=True,
        )
        return self._encode(record)


def is_published(message: Message) -> bool:
    """Return True if a turn record of this answer is published."""
    return bool(message.model_version) and message.finish_reason is not FinishReason.OPEN
