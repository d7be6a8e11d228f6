"""A turn's record for training: what is published, under which pseudonym, and how it is taken back.

Published is what a model wrote, whatever became of it: a turn without a model version (refused at
the door, failed before a version was chosen) says nothing about any model.
"""

import hmac
from collections.abc import Callable, Sequence

from services.chassis.identity import Caller
from services.session.identifiers import ERASED, FINISHED, turn_event_id
from services.session.message import Answer, FinishReason, Message, Said, TurnRecord

Encode = Callable[[TurnRecord], bytes]


class TurnRecorder:
    """Makes records; `encode` turns one into the feedback service's bytes."""

    def __init__(self, principal_key: str, encode: Encode) -> None:
        self._key = principal_key.encode()
        self._encode = encode

    def finished(
        self,
        owner: Caller,
        question: Message,
        open_answer: Message,
        answer: Answer,
        said: Sequence[Said],
        now_us: int,
    ) -> bytes:
        """The record of a finished turn. `said` is exactly what the model was given."""
        record = TurnRecord(
            event_id=turn_event_id(answer.message_id, FINISHED),
            tenant=owner.tenant,
            principal=self._principal(owner),
            conversation_id=question.conversation_id,
            user_message_id=question.id,
            answer=answer,
            finish_us=now_us,
            task=open_answer.task,
            context=tuple(said),
            original_text=question.original_text,
        )
        return self._encode(record)

    def erased(self, owner: Caller, answer: Message, now_us: int) -> bytes:
        """Tells readers to forget a turn: ids and version, no text."""
        record = TurnRecord(
            event_id=turn_event_id(answer.id, ERASED),
            tenant=owner.tenant,
            principal=self._principal(owner),
            conversation_id=answer.conversation_id,
            user_message_id=answer.parent_id,
            answer=Answer(answer.id, "", answer.finish_reason, answer.model_version, answer.arm),
            finish_us=now_us,
            task=answer.task,
            erased=True,
        )
        return self._encode(record)

    def _principal(self, owner: Caller) -> str:
        """HMAC-SHA-256 of `tenant/user`: the gateway signs thumbs with the same formula and key, so
        that they join.
        """
        return hmac.digest(self._key, owner.key.encode(), "sha256").hex()


def is_published(message: Message) -> bool:
    """Whether a record of this message has gone to the outbox."""
    return bool(message.model_version) and message.finish_reason is not FinishReason.OPEN
