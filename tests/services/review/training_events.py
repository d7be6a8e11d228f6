"""Events of the review service as training reads them from the feedback table."""

from thumbwheel.feedback.v1 import events_pb2

from services.feedback.events import check_feedback
from services.feedback.lake import parquet
from services.feedback.wire import feedback_from
from training.data.chat import Message
from training.data.feedback.catalogue import Segment
from training.data.feedback.events import Feedback, FinishReason, Turn
from training.data.feedback.rows import DataKey, Decryptor, feedback_rows

SEGMENT = Segment(1, "topic", 0, 0, 1, "key", "sha", 1)
POSITION = {"topic_id": "topic", "partition": 0, "ingest_time": 1, "schema_version": 1, "offset": 0}


def turn(principal: str, message_id: str, version: str, text: str, arm: str) -> Turn:
    """Return a finished turn with one question."""
    return Turn(
        place=(0, 1, 0),
        event_id=message_id,
        principal=principal,
        message_id=message_id,
        context=(Message("user", "hi"),),
        answer=text,
        finish=FinishReason.STOP,
        model_version=version,
        arm=arm,
    )


def read_by_training(event_proto: events_pb2.FeedbackEvent) -> Feedback:
    """Return the event of a user, or of a reviewer and a user, who allow training."""
    event = feedback_from(event_proto)
    check_feedback(event)
    row = parquet.feedback_row(event) | POSITION | {"event_id": event.event_id}
    table = parquet.read(parquet.encode_feedback([row]))
    keys = {principal: DataKey(consent=True) for principal in event.principals}
    (found,) = feedback_rows(table, SEGMENT, Decryptor(keys, set()))
    return found
