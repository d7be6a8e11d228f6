"""Conversion of domain objects to protobuf and back."""

from collections.abc import Mapping
from typing import TypeVar

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import events_pb2
from thumbwheel.session.v1 import session_pb2

from services.contracts.chat import ContextMessage
from services.contracts.limits import field_error
from services.contracts.wire import (
    FINISH_REASON_NUMBERS,
    FINISH_REASONS,
    ROLE_NUMBERS,
    ROLES,
    TASK_NUMBERS,
    TASKS,
    edit_message,
    history_message,
    prompt_from,
    sample_from,
    sample_message,
    timestamp,
    usage_from,
)
from services.session.message import Answer, Conversation, Message, Turn, TurnRecord, TurnRequest

NumberT = TypeVar("NumberT", bound=int)
NameT = TypeVar("NameT")


def turn_request_from(request: session_pb2.BeginTurnRequest) -> TurnRequest:
    """Convert a BeginTurn request.

    Raises:
        InvalidArgumentError: a role or the task is unknown.
    """
    user = prompt_from(request.user) if request.WhichOneof("action") == "user" else None
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
        usage=usage_from(request.usage),
        policy_version=request.policy_version,
        guard_category=request.guard_category,
        sample=sample_from(request),
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
        edits=map(edit_message, message.edits),
        model_version=message.model_version,
        arm=message.arm,
        finish_reason=FINISH_REASON_NUMBERS[message.finish_reason],
        create_time=timestamp(message.create_us),
        task=TASK_NUMBERS[message.task],
    )


def conversation_proto(conversation: Conversation) -> chat_pb2.Conversation:
    """Convert a conversation for the user."""
    return chat_pb2.Conversation(
        id=conversation.id,
        title=conversation.title,
        create_time=timestamp(conversation.create_us),
        update_time=timestamp(conversation.update_us),
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
        context=map(history_message, record.context),
        original_text=record.original_text,
        answer=answer.text,
        finish_reason=FINISH_REASON_NUMBERS[answer.finish_reason],
        model_version=answer.model_version,
        arm=answer.arm,
        assignment_probability=answer.assignment_probability,
        task=TASK_NUMBERS[record.task],
        temperature=answer.temperature,
        top_p=answer.top_p,
        usage=chat_pb2.Usage(
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
        ),
        policy_version=answer.policy_version,
        guard_category=answer.guard_category,
        finish_time=timestamp(record.finish_us),
        erased=record.erased,
        cached=answer.usage.cached,
        sample=sample_message(answer.sample),
    )
    return event.SerializeToString(deterministic=True)


def _lookup(table: Mapping[NumberT, NameT], number: NumberT, field: str) -> NameT:
    if number not in table:
        raise field_error(field, f"one of {', '.join(map(str, table.values()))}")
    return table[number]
