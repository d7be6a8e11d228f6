"""Bytes of feedback in write-ahead log, Kafka and object store, by kind of event.

`python -m benchmarks.storage`. Events are sealed as the service does it, so that texts do not
compress. Kafka's own overhead for batches and the copies of brokers are not included. Sizes depend
on the lengths of texts only, not on the machine.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2

from services.feedback.lake import parquet
from services.feedback.principals.sealing import DataKey, MasterKey, Sealer
from services.feedback.spool.log import Entry, Record, encode_frame
from services.feedback.wire import (
    decode_feedback,
    decode_turn,
    extract_feedback_texts,
    extract_turn_texts,
    feedback_entry,
    turn_entry,
)

EVENTS = 1_000
ANSWER_TOKENS = 250
CONTEXT_TOKENS = 1_000
CHARACTERS_A_TOKEN = 4
USERS = 100
MASTER = "5e" * 32


class ConstantKey:
    """Key source with one key for all principals, without a database."""

    def get_or_create(self, tenants: Mapping[str, str]) -> Mapping[str, DataKey]:
        return dict.fromkeys(tenants, DataKey(bytes(16), bytes(32)))


def common(number: int) -> dict[str, Any]:
    """Return the fields that both kinds of events have, for one of USERS users."""
    return {
        "event_id": str(uuid.uuid4()),
        "tenant": "company",
        "principal": f"{number % USERS:064x}",
        "conversation_id": str(uuid.uuid4()),
        "message_id": str(uuid.uuid4()),
        "model_version": "small-0",
        "arm": "stable",
    }


def thumb(number: int, comment: str = "") -> events_pb2.FeedbackEvent:
    message = events_pb2.FeedbackEvent(
        **common(number), thumb=events_pb2.Thumb(up=number % 3 != 0, comment=comment)
    )
    message.accept_time.GetCurrentTime()
    return message


def turn(number: int, sampled: bool) -> events_pb2.TurnEvent:
    """Return a turn with a context of CONTEXT_TOKENS and an answer of ANSWER_TOKENS."""
    message = events_pb2.TurnEvent(
        **common(number),
        user_message_id=str(uuid.uuid4()),
        answer="x" * (ANSWER_TOKENS * CHARACTERS_A_TOKEN),
        finish_reason=chat_pb2.FINISH_REASON_STOP,
        assignment_probability=1.0,
        task=chat_pb2.TASK_CHAT,
        temperature=0.7,
        top_p=0.9,
        policy_version="1",
    )
    message.context.add(role=chat_pb2.ROLE_USER, text="x" * (CONTEXT_TOKENS * CHARACTERS_A_TOKEN))
    message.usage.prompt_tokens = CONTEXT_TOKENS
    message.usage.completion_tokens = ANSWER_TOKENS
    message.finish_time.GetCurrentTime()
    if sampled:
        message.sample.token_ids.extend(random.choices(range(260_000), k=ANSWER_TOKENS))
        message.sample.log_probs.extend(-random.random() for _ in range(ANSWER_TOKENS))
    return message


def sizes(entries: Sequence[Entry], feedback: bool) -> tuple[int, int, int]:
    """Return the bytes of 1,000 events in the log, as payloads in Kafka, and in Parquet."""
    records = [Record(number, 0, entry) for number, entry in enumerate(entries)]
    rows = [
        {
            "topic_id": "topic",
            "partition": 0,
            "offset": record.offset,
            "event_id": record.entry.event_id,
            "ingest_time": record.append_us,
            "schema_version": 1,
            "accept_order": record.offset,
            **(
                parquet.feedback_row(decode_feedback(record))
                if feedback
                else parquet.turn_row(decode_turn(record))
            ),
        }
        for record in records
    ]
    encode = parquet.encode_feedback if feedback else parquet.encode_turns
    return (
        sum(len(encode_frame(record, 0)) for record in records),
        sum(len(record.entry.payload) for record in records),
        len(encode(rows)),
    )


def main() -> None:
    """Print the bytes an event in each place."""
    master = MasterKey(MASTER)
    thumbs = Sealer(events_pb2.FeedbackEvent, extract_feedback_texts, ConstantKey(), master)
    turns = Sealer(events_pb2.TurnEvent, extract_turn_texts, ConstantKey(), master)
    comment = "this is what I was looking for, thanks"
    kinds = {
        "thumb": (thumbs.seal([feedback_entry(thumb(n)) for n in range(EVENTS)]), True),
        "thumb with a comment": (
            thumbs.seal([feedback_entry(thumb(n, comment)) for n in range(EVENTS)]),
            True,
        ),
        "turn without a sample": (
            turns.seal([turn_entry(turn(n, False)) for n in range(EVENTS)]),
            False,
        ),
        "turn with a sample": (
            turns.seal([turn_entry(turn(n, True)) for n in range(EVENTS)]),
            False,
        ),
    }
    print(f"context {CONTEXT_TOKENS} tokens, answer {ANSWER_TOKENS} tokens; bytes an event")
    for name, (entries, feedback) in kinds.items():
        log, payload, table = (total / EVENTS for total in sizes(entries, feedback))
        print(f"{name:<24} log {log:6,.0f}   payload {payload:6,.0f}   Parquet {table:6,.0f}")


if __name__ == "__main__":
    main()
