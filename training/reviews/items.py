"""Items for the review service, without personal data."""

from __future__ import annotations

import uuid
from collections import Counter

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.review.v1 import review_pb2

from training.corpus.pii.judgements import redact_conversation
from training.corpus.pii.kinds import Kind
from training.reviews.rules import Candidate, Rule

# uuid5(NAMESPACE_URL, "urn:thumbwheel:review-items"). Must never change: after a change of the
# namespace all items would be drawn again.
ITEM_NAMESPACE = uuid.UUID("2485287a-2a94-5a39-ae43-cb523e1b581b")
ANSWER_IDS = "abcdef"
# Limits of the review service.
MAX_CONTEXT_MESSAGES = 200
MAX_CONTEXT_CHARACTERS = 131_072
MAX_ANSWER_CHARACTERS = 32_768


def item_id_of(tenant: str, message_id: str, rule: Rule) -> str:
    """Return the id of the item of an answer and a rule."""
    return str(uuid.uuid5(ITEM_NAMESPACE, f"{rule}/{message_id}/{tenant}"))


def item_of(candidate: Candidate, language: str, replaced: Counter[Kind]) -> review_pb2.DrawnItem:
    """Return the item of a candidate, and count the replaced personal data.

    Args:
        candidate: of a draw.
        language: ISO 639-1 code of the user's language.
        replaced: gets the numbers of placeholders by kind.
    """
    turn, answers = candidate.turn, candidate.answers
    context, texts, counts = redact_conversation(
        turn.context, [answer.answer for answer in answers], language
    )
    replaced.update(counts)
    return review_pb2.DrawnItem(
        item=review_pb2.ReviewItem(
            item_id=item_id_of(turn.tenant, turn.message_id, candidate.rule),
            context=[
                chat_pb2.HistoryMessage(
                    role=chat_pb2.Role.Value(f"ROLE_{message.role.upper()}"), text=message.content
                )
                for message in context
            ],
            answers=[
                review_pb2.ReviewAnswer(answer_id=answer_id, text=text)
                for answer_id, text in zip(ANSWER_IDS, texts, strict=False)
            ],
            task=_task(turn.task),
        ),
        tenant=turn.tenant,
        principal=turn.principal,
        conversation_id=turn.conversation_id,
        message_id=turn.message_id,
        model_versions=[answer.model_version for answer in answers],
        message_ids=[answer.message_id for answer in answers],
        arm=turn.arm,
        rule=review_pb2.DrawRule.Value(f"DRAW_RULE_{candidate.rule.name}"),
    )


def is_too_long(item: review_pb2.DrawnItem) -> bool:
    """Return True for an item that the review service would refuse."""
    context = item.item.context
    return (
        len(context) > MAX_CONTEXT_MESSAGES
        or sum(len(message.text) for message in context) > MAX_CONTEXT_CHARACTERS
        or any(len(answer.text) > MAX_ANSWER_CHARACTERS for answer in item.item.answers)
    )


def _task(name: str) -> chat_pb2.Task.ValueType:
    """Return a task by its name in the log; tasks of later releases are unspecified."""
    return dict(chat_pb2.Task.items()).get(f"TASK_{name.upper()}", chat_pb2.TASK_UNSPECIFIED)
