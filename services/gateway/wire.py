"""Conversion between protobuf messages and domain types, with one table per enum.

An enum value missing from its table is an error of the caller. The error names the field, and no
default is assumed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from thumbwheel.chat.v1 import chat_pb2

from services.chassis.errors import UnavailableError
from services.contracts.limits import field_error
from services.gateway.answering.guard import Action
from services.gateway.turns.events import (
    Completed,
    Enhanced,
    Event,
    FinishReason,
    Prompt,
    Started,
    TextDelta,
    TextEdit,
    TurnEvent,
    Usage,
    Verdict,
)
from services.gateway.turns.request import (
    DisconnectPolicy,
    Message,
    Regenerate,
    Role,
    Sampling,
    Task,
    TurnRequest,
    UserInput,
)

NumberT = TypeVar("NumberT", bound=int)
EnumT = TypeVar("EnumT", bound=StrEnum)

ROLES: Mapping[chat_pb2.Role.ValueType, Role] = {
    chat_pb2.Role.Value(f"ROLE_{role.name}"): role for role in Role
}
TASKS: Mapping[chat_pb2.Task.ValueType, Task] = {
    chat_pb2.Task.Value(f"TASK_{task.name}"): task for task in Task
}
FINISH_REASONS: Mapping[chat_pb2.FinishReason.ValueType, FinishReason] = {
    chat_pb2.FinishReason.Value(f"FINISH_REASON_{reason.name}"): reason for reason in FinishReason
}
DISCONNECT_POLICIES: Mapping[chat_pb2.DisconnectPolicy.ValueType, DisconnectPolicy] = {
    chat_pb2.DISCONNECT_POLICY_UNSPECIFIED: DisconnectPolicy.DETACH,
    chat_pb2.DISCONNECT_POLICY_DETACH: DisconnectPolicy.DETACH,
    chat_pb2.DISCONNECT_POLICY_CANCEL: DisconnectPolicy.CANCEL,
}
ROLE_NUMBERS = {role: number for number, role in ROLES.items()}
TASK_NUMBERS = {task: number for number, task in TASKS.items()}
FINISH_REASON_NUMBERS = {reason: number for number, reason in FINISH_REASONS.items()}


def _known(table: Mapping[NumberT, EnumT], number: NumberT, name: str) -> EnumT:
    if number not in table:
        raise field_error(name, " or ".join(sorted(set(table.values()))))
    return table[number]


def turn_request(request: chat_pb2.SendMessageRequest) -> TurnRequest:
    """Convert a request. The limits are checked later, by `check_request`.

    Raises:
        InvalidArgumentError: An enum value or the action is unknown.
    """
    sampling = request.sampling
    return TurnRequest(
        action=_action(request),
        conversation_id=request.conversation_id,
        parent_message_id=request.parent_message_id,
        request_id=request.request_id,
        on_disconnect=_known(DISCONNECT_POLICIES, request.on_disconnect, "on_disconnect"),
        task=_known(TASKS, request.task, "task"),
        # Presence matters, since 0 is a valid value of these fields.
        sampling=Sampling(
            temperature=sampling.temperature if sampling.HasField("temperature") else None,
            top_p=sampling.top_p if sampling.HasField("top_p") else None,
            max_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
            stop=tuple(sampling.stop),
            seed=sampling.seed if sampling.HasField("seed") else None,
        ),
        model=request.model,
        skip_enhancer=request.skip_enhancer,
    )


def _action(request: chat_pb2.SendMessageRequest) -> UserInput | Regenerate:
    match request.WhichOneof("action"):
        case "input":
            return UserInput(
                request.input.text,
                tuple(
                    Message(
                        _known(ROLES, message.role, f"input.history[{number}].role"), message.text
                    )
                    for number, message in enumerate(request.input.history)
                ),
            )
        case "regenerate":
            return Regenerate(request.regenerate.message_id)
        case _:
            raise field_error("action", "one of input, regenerate")


def sampling_message(sampling: Sampling) -> chat_pb2.SamplingOverrides:
    """Convert sampling parameters for the generator."""
    return chat_pb2.SamplingOverrides(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_tokens,
        stop=sampling.stop,
        seed=sampling.seed,
    )


def history_message(message: Message) -> chat_pb2.HistoryMessage:
    """Convert one message of a context."""
    return chat_pb2.HistoryMessage(role=ROLE_NUMBERS[message.role], text=message.text)


def edit_message(edit: TextEdit) -> chat_pb2.TextEdit:
    """Convert one correction of the enhancer to protobuf."""
    return chat_pb2.TextEdit(
        start=edit.start, end=edit.end, replacement=edit.replacement, kind=edit.kind
    )


def text_edit(edit: chat_pb2.TextEdit) -> TextEdit:
    """Convert one correction of the enhancer from protobuf."""
    return TextEdit(edit.start, edit.end, edit.replacement, edit.kind)


def stored_prompt(message: chat_pb2.Message) -> Prompt:
    """Convert a stored user message, with the original and the enhanced text."""
    return Prompt(
        message.original_text or message.text, message.text, tuple(map(text_edit, message.edits))
    )


def usage_message(usage: Usage) -> chat_pb2.Usage:
    """Convert token counts to protobuf."""
    return chat_pb2.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached=usage.cached,
    )


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
            enhanced = message.enhanced
            return Enhanced(
                Prompt(enhanced.original_text, enhanced.text, tuple(map(text_edit, enhanced.edits)))
            )
        case "text_delta":
            return TextDelta(message.text_delta.text)
        case "verdict":
            return Verdict(
                message.verdict.stage, Action(message.verdict.action), message.verdict.category
            )
        case "usage":
            return Usage(
                message.usage.prompt_tokens, message.usage.completion_tokens, message.usage.cached
            )
        case "completed":
            reason = FINISH_REASONS.get(message.completed.finish_reason, FinishReason.FAILED)
            return Completed(reason, message.completed.text_sha256)
        case _:
            raise UnavailableError(
                "the event of a newer gateway is unknown to this version",
                reason="SHARED_EVENTS_NEWER",
            )
