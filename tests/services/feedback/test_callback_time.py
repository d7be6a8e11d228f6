"""CPU time of the event loop for the largest request of each RPC.

Finding S-04. The limit of a callback is 50 ms of CPU time; the tests allow three times as much.
"""

from pathlib import Path

import pytest
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2, feedback_pb2

from services.chassis.errors import InvalidArgumentError
from services.contracts.limits import MAX_CONTEXT_MESSAGES, MAX_REPLY_TOKENS
from services.feedback.servicer import MAX_TURN_BYTES
from tests.services.feedback.clients import running
from tests.services.feedback.samples import correction, name, thumb, turn
from tests.support.loop_time import MAX_CALLBACK_SECONDS, measure_callbacks

SHORT = chat_pb2.HistoryMessage(role=chat_pb2.ROLE_USER, text="a")


def context_of(messages: int, message: str = "m") -> events_pb2.TurnEvent:
    event = turn(message=message)
    event.context.extend([SHORT] * (messages - 1))
    return event


def sampled_of(tokens: int, message: str = "m") -> events_pb2.TurnEvent:
    event = turn(message=message)
    event.sample.token_ids.extend([1] * tokens)
    event.sample.log_probs.extend([-0.5] * tokens)
    return event


# Built in the test, not at its collection.
BATCHES = {
    "contexts": lambda: [context_of(MAX_CONTEXT_MESSAGES, f"{number}") for number in range(14)],
    "samples": lambda: [sampled_of(MAX_REPLY_TOKENS, f"{number}") for number in range(95)],
}


@pytest.mark.parametrize("kind", BATCHES)
async def test_largest_batches_of_turns_take_little_time(tmp_path: Path, kind: str) -> None:
    batch = BATCHES[kind]()
    size = feedback_pb2.AppendTurnsRequest(turns=batch).ByteSize()
    assert 0.9 * MAX_TURN_BYTES < size <= MAX_TURN_BYTES
    async with running(tmp_path, flush_seconds=60) as client:
        with measure_callbacks() as longest:
            await client.append(*batch)
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


TOO_MANY = {
    "turns[0].context": lambda: context_of(MAX_CONTEXT_MESSAGES + 1),
    "turns[0].sample.token_ids": lambda: sampled_of(400_000),
}


@pytest.mark.parametrize("field", TOO_MANY)
async def test_too_many_items_of_a_turn_are_refused_in_little_time(
    tmp_path: Path, field: str
) -> None:
    event = TOO_MANY[field]()
    async with running(tmp_path, flush_seconds=60) as client:
        with measure_callbacks() as longest, pytest.raises(InvalidArgumentError) as caught:
            await client.append(event)
    assert caught.value.field == field
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS


async def test_largest_feedback_and_reads_take_little_time(tmp_path: Path) -> None:
    ids = [name(f"{number}") for number in range(1_000)]
    noise = thumb("many")
    noise.thumb.reasons.extend([""] * 1_000_000)
    async with running(tmp_path) as client:
        with measure_callbacks() as longest:
            await client.record(correction("a", "\U0001f600" * 8_192))
            await client.record(thumb("b"))
            with pytest.raises(InvalidArgumentError):
                await client.record(noise)
            await client.call("GetThumbs", feedback_pb2.GetThumbsRequest(message_ids=ids))
            await client.call(
                "GetDataKeys",
                feedback_pb2.GetDataKeysRequest(principals=[f"{n:064x}" for n in range(1_000)]),
                caller=None,
            )
            await client.call("ListErasures", feedback_pb2.ListErasuresRequest(), caller=None)
    assert longest.cpu_seconds <= MAX_CALLBACK_SECONDS
