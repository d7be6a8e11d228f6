"""Conversion of requests for turns from protobuf, with one table per enum.

An enum value missing from its table is an error of the caller. The error names the field, and no
default is assumed.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2

from services.contracts.limits import field_error
from services.contracts.wire import ROLES, TASKS, overrides_from
from services.gateway.turns.request import DisconnectPolicy, Regenerate, TurnRequest, typed_message

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
    action: session_pb2.UserMessage | Regenerate
    match request.WhichOneof("action"):
        case "input":
            action = typed_message(request.input.text)
            for number, message in enumerate(request.input.history):
                _known(ROLES, message.role, f"input.history[{number}].role")
        case "regenerate":
            action = Regenerate(request.regenerate.message_id)
        case _:
            raise field_error("action", "one of input, regenerate")
    return TurnRequest(
        action=action,
        history=request.input.history,
        conversation_id=request.conversation_id,
        parent_message_id=request.parent_message_id,
        request_id=request.request_id,
        on_disconnect=_known(DISCONNECT_POLICIES, request.on_disconnect, "on_disconnect"),
        task=_known(TASKS, request.task, "task"),
        sampling=overrides_from(request.sampling),
        model=request.model,
        skip_enhancer=request.skip_enhancer,
    )
