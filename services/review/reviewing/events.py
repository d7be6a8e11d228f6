"""Events for training from the reviews of a complete item.

Events are sent only when the reviewers agree or a disagreement is resolved, so that nothing has to
be retracted. The event of a review is made for its reviewer (`rater`); the principal is the user
whose words the item has.
"""

import uuid
from collections.abc import Iterator

from thumbwheel.feedback.v1 import events_pb2

from services.contracts.wire import timestamp
from services.review.reviewing.item import Item, Review

# uuid5(NAMESPACE_URL, "urn:thumbwheel:reviews"). Must never change: an event that is sent again
# after a change of the namespace would count twice.
REVIEW_NAMESPACE = uuid.UUID("561b373a-277c-5ef1-ac79-5064a4826709")


def review_events(item: Item, review: Review) -> Iterator[events_pb2.FeedbackEvent]:
    """Yield the ranking and the written answer of a review; neither for a review without both."""
    judgement = review.judgement
    if ranks := judgement.opinion.ranks:
        event = _event(item, review, "ranking")
        event.ranking.source = events_pb2.RANKING_SOURCE_REVIEW
        for answer, rank in zip(item.answers, ranks, strict=True):
            event.ranking.answers.add(
                message_id=answer.message_id,
                text="" if answer.message_id else answer.text,
                model_version=answer.model_version,
                rank=rank,
            )
        yield event
    if judgement.written_answer.strip():
        event = _event(item, review, "correction")
        event.correction.text = judgement.written_answer
        yield event


def _event(item: Item, review: Review, kind: str) -> events_pb2.FeedbackEvent:
    (shown,) = (answer for answer in item.answers if answer.message_id == item.message_id)
    # With the time, because an item can be removed, drawn and judged again.
    name = f"{item.item_id}/{review.rater}/{review.submit_us}/{kind}"
    return events_pb2.FeedbackEvent(
        event_id=str(uuid.uuid5(REVIEW_NAMESPACE, name)),
        tenant=item.tenant,
        principal=item.principal,
        conversation_id=item.conversation_id,
        message_id=item.message_id,
        model_version=shown.model_version,
        arm=item.arm,
        accept_time=timestamp(review.submit_us),
        rater=review.rater,
    )
