"""Conversion between protobuf messages and domain types, with one table per enum.

An enum value missing from its table is an error of the caller. The error names the field, and no
default is assumed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import UnavailableError
from services.contracts.chat import Action, ContextMessage, FinishReason, Prompt, Task, Usage
from services.contracts.limits import field_error
from services.contracts.wire import (
    FINISH_REASON_NUMBERS,
    FINISH_REASONS,
    ROLES,
    TASK_NUMBERS,
    TASKS,
    edit_message,
    overrides_from,
    prompt_from,
    usage_from,
    usage_message,
)
from services.gateway.turns.events import (
    Completed,
    Enhanced,
    Event,
    Started,
    TextDelta,
    TurnEvent,
    Verdict,
)
from services.gateway.turns.request import DisconnectPolicy, Regenerate, TurnRequest

NumberT = TypeVar("NumberT", bound=int)
EnumT = TypeVar("EnumT", bound=StrEnum)

DISCONNECT_POLICIES: Mapping[chat_pb2.DisconnectPolicy.ValueType, DisconnectPolicy] = {
    chat_pb2.DISCONNECT_POLICY_UNSPECIFIED: DisconnectPolicy.DETACH,
    chat_pb2.DISCONNECT_POLICY_DETACH: DisconnectPolicy.DETACH,
    chat_pb2.DISCONNECT_POLICY_CANCEL: DisconnectPolicy.CANCEL,
}


def _known(table: Mapping[NumberT, EnumT], number: NumberT, name: str) -> EnumT:
    if number not in table:
        raise field_error(name, " or ".join(sorted(set(table.values()))))
    return table[number]


def turn_request(request: chat_pb2.SendMessageRequest) -> TurnRequest:
    """Convert a request. The limits are checked later, by `check_request`.

    Raises:
        InvalidArgumentError: An enum value or the action is unknown.
    """
    return TurnRequest(
        action=_action(request),
        history=tuple(
            ContextMessage(
                _known(ROLES, message.role, f"input.history[{number}].role"), message.text
            )
            for number, message in enumerate(request.input.history)
        ),
        conversation_id=request.conversation_id,
        parent_message_id=request.parent_message_id,
        request_id=request.request_id,
        on_disconnect=_known(DISCONNECT_POLICIES, request.on_disconnect, "on_disconnect"),
        task=_known(TASKS, request.task, "task"),
        sampling=overrides_from(request.sampling),
        model=request.model,
        skip_enhancer=request.skip_enhancer,
    )


def _action(request: chat_pb2.SendMessageRequest) -> Prompt | Regenerate:
    match request.WhichOneof("action"):
        case "input":
            return Prompt.typed(request.input.text)
        case "regenerate":
            return Regenerate(request.regenerate.message_id)
        case _:
            raise field_error("action", "one of input, regenerate")


def event_message(turn_event: TurnEvent) -> chat_pb2.ChatEvent:
    """Convert an event of a turn to the public message."""
    message = chat_pb2.ChatEvent(sequence=turn_event.sequence, message_id=turn_event.message_id)
    _fill(message, turn_event.event)
    return message


def _fill(message: chat_pb2.ChatEvent, event: Event) -> None:
    match event:
        case TextDelta(text):
            message.text_delta.text = text
        case Started():
            message.started.CopyFrom(
                chat_pb2.Started(
                    conversation_id=event.conversation_id,
                    user_message_id=event.user_message_id,
                    model_version=event.model_version,
                    arm=event.arm,
                    policy_version=event.policy_version,
                    task=TASK_NUMBERS[event.task],
                    cached=event.cached,
                )
            )
        case Enhanced(prompt):
            message.enhanced.CopyFrom(
                chat_pb2.Enhanced(
                    original_text=prompt.original_text,
                    text=prompt.text,
                    edits=map(edit_message, prompt.edits),
                )
            )
        case Verdict(stage, action, category):
            message.verdict.CopyFrom(
                chat_pb2.Verdict(stage=stage, action=action.value, category=category)
            )
        case Usage():
            message.usage.CopyFrom(usage_message(event))
        case Completed(reason, digest):
            message.completed.finish_reason = FINISH_REASON_NUMBERS[reason]
            message.completed.text_sha256 = digest


def turn_event_from(message: chat_pb2.ChatEvent) -> TurnEvent:
    """Convert an event written by another gateway.

    Raises:
        UnavailableError: The event type is unknown to this version of the gateway.
    """
    return TurnEvent(message.sequence, message.message_id, _event(message))


def _event(message: chat_pb2.ChatEvent) -> Event:
    match message.WhichOneof("event"):
        case "started":
            started = message.started
            return Started(
                started.conversation_id,
                started.user_message_id,
                started.model_version,
                started.arm,
                started.policy_version,
                TASKS.get(started.task, Task.UNSPECIFIED),
                started.cached,
            )
        case "enhanced":
            return Enhanced(prompt_from(message.enhanced))
        case "text_delta":
            return TextDelta(message.text_delta.text)
        case "verdict":
            return Verdict(
                message.verdict.stage, Action(message.verdict.action), message.verdict.category
            )
        case "usage":
            return usage_from(message.usage)
        case "completed":
            reason = FINISH_REASONS.get(message.completed.finish_reason, FinishReason.OPEN)
            if reason is FinishReason.OPEN:
                reason = FinishReason.FAILED
            return Completed(reason, message.completed.text_sha256)
        case _:
            raise UnavailableError(
                "the event of a newer gateway is unknown to this version",
                reason="SHARED_EVENTS_NEWER",
            )
