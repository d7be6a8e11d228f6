"""Conversion of domain objects to protobuf and back."""

from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.session.v1 import session_pb2

from services.contracts.limits import field_error
from services.session.message import (
    Answer,
    ContextMessage,
    Conversation,
    FinishReason,
    Message,
    Role,
    Sample,
    Task,
    TextEdit,
    Turn,
    TurnRecord,
    TurnRequest,
    UserText,
)

ROLES = {
    chat_pb2.ROLE_SYSTEM: Role.SYSTEM,
    chat_pb2.ROLE_USER: Role.USER,
    chat_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
TASKS = {
    chat_pb2.TASK_UNSPECIFIED: Task.UNSPECIFIED,
    chat_pb2.TASK_CODE: Task.CODE,
    chat_pb2.TASK_QUESTION_ANSWERING: Task.QUESTION_ANSWERING,
    chat_pb2.TASK_CHAT: Task.CHAT,
    chat_pb2.TASK_CREATIVE: Task.CREATIVE,
}
FINISH_REASONS = {
    chat_pb2.FINISH_REASON_UNSPECIFIED: FinishReason.OPEN,
    chat_pb2.FINISH_REASON_STOP: FinishReason.STOP,
    chat_pb2.FINISH_REASON_LENGTH: FinishReason.LENGTH,
    chat_pb2.FINISH_REASON_CANCELLED: FinishReason.CANCELLED,
    chat_pb2.FINISH_REASON_INPUT_BLOCKED: FinishReason.INPUT_BLOCKED,
    chat_pb2.FINISH_REASON_OUTPUT_BLOCKED: FinishReason.OUTPUT_BLOCKED,
    chat_pb2.FINISH_REASON_FAILED: FinishReason.FAILED,
}
ROLE_NUMBERS = {role: number for number, role in ROLES.items()}
TASK_NUMBERS = {task: number for number, task in TASKS.items()}
FINISH_NUMBERS = {finish: number for number, finish in FINISH_REASONS.items()}

NumberT = TypeVar("NumberT", bound=int)
NameT = TypeVar("NameT")


def turn_request_from(request: session_pb2.BeginTurnRequest) -> TurnRequest:
    """Convert a BeginTurn request.

    Raises:
        InvalidArgumentError: a role or the task is unknown.
    """
    user = None
    if request.WhichOneof("action") == "user":
        edits = tuple(
            TextEdit(edit.start, edit.end, edit.replacement, edit.kind)
            for edit in request.user.edits
        )
        user = UserText(request.user.original_text, request.user.text, edits)
    history = tuple(
        ContextMessage(_lookup(ROLES, entry.role, f"history[{number}].role"), entry.text)
        for number, entry in enumerate(request.history)
    )
    return TurnRequest(
        user=user,
        regenerate_id=request.regenerate_message_id,
        conversation_id=request.conversation_id,
        parent_id=request.parent_message_id,
        history=history,
        request_id=request.request_id,
        task=_lookup(TASKS, request.task, "task"),
        reply_tokens=request.reply_tokens,
    )


def turn_response(turn: Turn) -> session_pb2.BeginTurnResponse:
    """Convert a turn to the response of BeginTurn."""
    return session_pb2.BeginTurnResponse(
        conversation_id=turn.conversation_id,
        user_message_id=turn.user_message_id,
        assistant_message_id=turn.assistant_message_id,
        context=[
            session_pb2.ContextMessage(role=ROLE_NUMBERS[message.role], text=message.text)
            for message in turn.context
        ],
        context_tokens=turn.context_tokens,
        dropped_messages=turn.dropped_messages,
        replayed=turn.replayed,
    )


def answer_from(request: session_pb2.FinishTurnRequest) -> Answer:
    """Convert a FinishTurn request.

    Raises:
        InvalidArgumentError: the finish reason is unknown.
    """
    sample = request.sample
    return Answer(
        message_id=request.assistant_message_id,
        # A model may write U+0000, which Postgres cannot store. The answer must not be lost.
        text=request.text.replace("\0", "\ufffd"),
        finish_reason=_lookup(FINISH_REASONS, request.finish_reason, "finish_reason"),
        model_version=request.model_version,
        arm=request.arm,
        assignment_probability=request.assignment_probability,
        temperature=request.temperature,
        top_p=request.top_p,
        prompt_tokens=request.usage.prompt_tokens,
        completion_tokens=request.usage.completion_tokens,
        policy_version=request.policy_version,
        guard_category=request.guard_category,
        cached=request.usage.cached,
        sample=(
            Sample(tuple(sample.token_ids), tuple(sample.log_probs))
            if request.HasField("sample")
            else None
        ),
    )


def message_proto(message: Message) -> chat_pb2.Message:
    """Convert a message for the user."""
    return chat_pb2.Message(
        id=message.id,
        conversation_id=message.conversation_id,
        parent_id=message.parent_id,
        role=ROLE_NUMBERS[message.role],
        text=message.text,
        original_text=message.original_text,
        edits=[
            chat_pb2.TextEdit(
                start=edit.start, end=edit.end, replacement=edit.replacement, kind=edit.kind
            )
            for edit in message.edits
        ],
        model_version=message.model_version,
        arm=message.arm,
        finish_reason=FINISH_NUMBERS[message.finish_reason],
        create_time=_timestamp(message.create_us),
        task=TASK_NUMBERS[message.task],
    )


def conversation_proto(conversation: Conversation) -> chat_pb2.Conversation:
    """Convert a conversation for the user."""
    return chat_pb2.Conversation(
        id=conversation.id,
        title=conversation.title,
        create_time=_timestamp(conversation.create_us),
        update_time=_timestamp(conversation.update_us),
    )


def encode_turn_record(record: TurnRecord) -> bytes:
    """Serialise a turn record as TurnEvent, deterministically."""
    answer = record.answer
    event = events_pb2.TurnEvent(
        event_id=record.event_id,
        tenant=record.tenant,
        principal=record.principal,
        conversation_id=record.conversation_id,
        user_message_id=record.user_message_id,
        message_id=answer.message_id,
        context=[
            chat_pb2.HistoryMessage(role=ROLE_NUMBERS[message.role], text=message.text)
            for message in record.context
        ],
        original_text=record.original_text,
        answer=answer.text,
        finish_reason=FINISH_NUMBERS[answer.finish_reason],
        model_version=answer.model_version,
        arm=answer.arm,
        assignment_probability=answer.assignment_probability,
        task=TASK_NUMBERS[record.task],
        temperature=answer.temperature,
        top_p=answer.top_p,
        usage=chat_pb2.Usage(
            prompt_tokens=answer.prompt_tokens, completion_tokens=answer.completion_tokens
        ),
        policy_version=answer.policy_version,
        guard_category=answer.guard_category,
        finish_time=_timestamp(record.finish_us),
        erased=record.erased,
        cached=answer.cached,
    )
    if answer.sample:
        event.sample.token_ids.extend(answer.sample.token_ids)
        event.sample.log_probs.extend(answer.sample.log_probs)
    return event.SerializeToString(deterministic=True)


def _lookup(table: dict[NumberT, NameT], number: NumberT, field: str) -> NameT:
    if number not in table:
        raise field_error(field, f"one of {', '.join(map(str, table.values()))}")
    return table[number]


def _timestamp(microseconds: int) -> Timestamp:
    return Timestamp(seconds=microseconds // 1_000_000, nanos=microseconds % 1_000_000 * 1_000)
