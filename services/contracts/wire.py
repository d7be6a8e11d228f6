"""Conversion between protobuf messages and the types of the contracts.

Each enum has one table. A value of a newer sender is missing from its table; each service decides
whether that is an error of the caller or has a default.
"""

import time
from collections.abc import Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.generator.v1 import generator_pb2, sample_pb2
from thumbwheel.guardrail.v1 import guardrail_pb2
from thumbwheel.session.v1 import session_pb2

from services.contracts.chat import (
    Action,
    FinishReason,
    Role,
    Sample,
    SamplingOverrides,
    Task,
    TextEdit,
    Usage,
)
from services.contracts.feedback import (
    Correction,
    FeedbackValue,
    RankedAnswer,
    Ranking,
    RankingSource,
    Retraction,
    Signal,
    Thumb,
)
from services.contracts.limits import MAX_RANKED_ANSWERS, MAX_REASONS, MAX_REPLY_TOKENS

ROLES: Mapping[chat_pb2.Role.ValueType, Role] = {
    chat_pb2.Role.Value(f"ROLE_{role.name}"): role for role in Role
}
TASKS: Mapping[chat_pb2.Task.ValueType, Task] = {
    chat_pb2.Task.Value(f"TASK_{task.name}"): task for task in Task
}
FINISH_REASONS: Mapping[chat_pb2.FinishReason.ValueType, FinishReason] = {
    chat_pb2.FinishReason.Value(f"FINISH_REASON_{reason.value.upper()}"): reason
    for reason in FinishReason
}
ACTIONS: Mapping[guardrail_pb2.Action.ValueType, Action] = {
    guardrail_pb2.Action.Value(f"ACTION_{action.name}"): action for action in Action
}
RANKING_SOURCES: Mapping[events_pb2.RankingSource.ValueType, RankingSource] = {
    events_pb2.RankingSource.Value(f"RANKING_SOURCE_{source.name}"): source
    for source in RankingSource
}
ROLE_NUMBERS = {role: number for number, role in ROLES.items()}
TASK_NUMBERS = {task: number for number, task in TASKS.items()}
FINISH_REASON_NUMBERS = {reason: number for number, reason in FINISH_REASONS.items()}
ACTION_NUMBERS = {action: number for number, action in ACTIONS.items()}

# The context of a turn as the session service returns it. The gateway hands it to the generator
# without decoding.
Context = Sequence[session_pb2.ContextMessage]


def edit_message(edit: TextEdit) -> chat_pb2.TextEdit:
    """Convert one correction of the enhancer to protobuf."""
    return chat_pb2.TextEdit(
        start=edit.start, end=edit.end, replacement=edit.replacement, kind=edit.kind
    )


def text_edits(edits: Sequence[chat_pb2.TextEdit]) -> tuple[TextEdit, ...]:
    """Convert corrections of the enhancer from protobuf."""
    return tuple(TextEdit(edit.start, edit.end, edit.replacement, edit.kind) for edit in edits)


def overrides_from(message: chat_pb2.SamplingOverrides) -> SamplingOverrides:
    """Convert sampling parameters of the caller from protobuf."""
    # Presence matters, since 0 is a valid value of these fields.
    return SamplingOverrides(
        temperature=message.temperature if message.HasField("temperature") else None,
        top_p=message.top_p if message.HasField("top_p") else None,
        max_tokens=message.max_tokens if message.HasField("max_tokens") else None,
        stop=tuple(message.stop),
        seed=message.seed if message.HasField("seed") else None,
    )


def overrides_message(overrides: SamplingOverrides) -> chat_pb2.SamplingOverrides:
    """Convert sampling parameters of the caller to protobuf."""
    return chat_pb2.SamplingOverrides(**vars(overrides))


def usage_message(usage: Usage) -> chat_pb2.Usage:
    """Convert token counts to protobuf."""
    return chat_pb2.Usage(**vars(usage))


def sample_from(
    message: generator_pb2.Finished | session_pb2.FinishTurnRequest | events_pb2.TurnEvent,
) -> Sample | None:
    """Return the sample of a message, or None if the field is absent.

    Items beyond the limit are cut off, except for one, which `check_sample` refuses: a conversion
    of millions of items would block the event loop.
    """
    if not message.HasField("sample"):
        return None
    end = MAX_REPLY_TOKENS + 1
    return Sample(tuple(message.sample.token_ids[:end]), tuple(message.sample.log_probs[:end]))


def sample_message(sample: Sample | None) -> sample_pb2.Sample | None:
    """Convert a sample to protobuf; None leaves the field absent."""
    return sample_pb2.Sample(**vars(sample)) if sample else None


def feedback_value_from(message: events_pb2.FeedbackEvent) -> FeedbackValue | None:
    """Return the value of a feedback event, or None if none is set.

    Reasons and answers beyond the limit are cut off, except for one, so that the check refuses
    them.
    """
    match message.WhichOneof("value"):
        case "thumb":
            return Thumb(
                message.thumb.up,
                tuple(message.thumb.reasons[: MAX_REASONS + 1]),
                message.thumb.comment,
            )
        case "correction":
            return Correction(message.correction.text)
        case "retraction":
            return Retraction(message.retraction.kind)
        case "signal":
            return Signal(message.signal.kind)
        case "ranking":
            return Ranking(
                tuple(
                    RankedAnswer(answer.rank, answer.message_id, answer.text, answer.model_version)
                    for answer in message.ranking.answers[: MAX_RANKED_ANSWERS + 1]
                ),
                RANKING_SOURCES.get(message.ranking.source, ""),
            )
        case _:
            return None


def now_us() -> int:
    """Return the present time in microseconds since 1970, in UTC."""
    return time.time_ns() // 1_000


def timestamp(microseconds: int | None) -> Timestamp | None:
    """Convert microseconds since 1970 in UTC; None leaves the field absent."""
    if microseconds is None:
        return None
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1_000)
