"""Conversion of the contracts: complete tables, and round trips through protobuf."""

from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.message import Message
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2

from services.contracts import wire
from services.contracts.chat import (
    Sample,
    SamplingOverrides,
    TextEdit,
    Usage,
)
from services.contracts.feedback import Correction, FeedbackValue, Retraction, Signal, Thumb
from services.contracts.limits import MAX_REASONS, MAX_REPLY_TOKENS


@pytest.mark.parametrize(
    ("enum", "table", "without_name"),
    [
        (chat_pb2.Role, wire.ROLES, {chat_pb2.ROLE_UNSPECIFIED}),
        (chat_pb2.Task, wire.TASKS, set()),
        (chat_pb2.FinishReason, wire.FINISH_REASONS, set()),
        (guardrail_pb2.Action, wire.ACTIONS, {guardrail_pb2.ACTION_UNSPECIFIED}),
    ],
)
def test_table_of_an_enum_is_complete(
    enum: Any, table: Mapping[int, str], without_name: set[int]
) -> None:
    assert set(enum.values()) == set(table) | without_name
    assert all(enum.Name(number).lower().endswith(name) for number, name in table.items())


def test_edits_of_a_prompt_survive_the_round_trip() -> None:
    edit = TextEdit(0, 3, "What", "spelling")
    message = chat_pb2.Enhanced(
        original_text="wat is it", text="What is it", edits=[wire.edit_message(edit)]
    )
    assert wire.text_edits(message.edits) == (edit,)


@pytest.mark.parametrize(
    "overrides",
    [
        SamplingOverrides(),
        SamplingOverrides(temperature=0.0, top_p=1.0, max_tokens=1, stop=("a", "b"), seed=0),
    ],
)
def test_absent_overrides_stay_absent_and_zero_stays_zero(overrides: SamplingOverrides) -> None:
    assert wire.overrides_from(wire.overrides_message(overrides)) == overrides


def test_usage_and_sample_survive_the_round_trip() -> None:
    usage, sample = Usage(7, 4, cached=True), Sample((7, 1), (-0.5, 0.0))
    finished = generator_pb2.Finished(
        usage=wire.usage_message(usage), sample=wire.sample_message(sample)
    )
    assert finished.usage == chat_pb2.Usage(prompt_tokens=7, completion_tokens=4, cached=True)
    assert wire.sample_from(finished) == sample
    assert wire.sample_from(generator_pb2.Finished(sample=wire.sample_message(None))) is None


@pytest.mark.parametrize(
    ("field", "message", "value"),
    [
        (
            "thumb",
            events_pb2.Thumb(up=False, reasons=["wrong"], comment="no"),
            Thumb(up=False, reasons=("wrong",), comment="no"),
        ),
        ("correction", events_pb2.Correction(text="56"), Correction("56")),
        ("retraction", events_pb2.Retraction(kind="thumb"), Retraction("thumb")),
        ("signal", events_pb2.Signal(kind="copied"), Signal("copied")),
    ],
)
def test_feedback_value_is_that_of_the_message(
    field: str, message: Message, value: FeedbackValue
) -> None:
    event = events_pb2.FeedbackEvent()
    assert wire.feedback_value_from(event) is None
    getattr(event, field).CopyFrom(message)
    assert wire.feedback_value_from(event) == value


@pytest.mark.parametrize("microseconds", [0, 1_000_000_001, -1])
def test_time_keeps_its_microseconds(microseconds: int) -> None:
    stamp = wire.timestamp(microseconds)
    assert stamp is not None
    assert stamp.ToMicroseconds() == microseconds
    assert wire.timestamp(None) is None


def test_conversion_of_lists_ends_after_their_limits() -> None:
    """Finding S-04: a conversion of millions of items blocked the event loop."""
    finished = generator_pb2.Finished()
    finished.sample.token_ids.extend([1] * 10_000)
    finished.sample.log_probs.extend([-1.0] * 10_000)
    sample = wire.sample_from(finished)
    assert sample is not None
    assert (len(sample.token_ids), len(sample.log_probs)) == (MAX_REPLY_TOKENS + 1,) * 2
    thumb = wire.feedback_value_from(
        events_pb2.FeedbackEvent(thumb=events_pb2.Thumb(reasons=["a"] * 100))
    )
    assert isinstance(thumb, Thumb)
    assert len(thumb.reasons) == MAX_REASONS + 1
