"""Who may call what: one rule a method, and a method without a rule is denied.

Identity is made here and nowhere else: the metadata that carries it between services is not believed from outside.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from enum import StrEnum
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from services.chassis.errors import InvalidArgumentError, PermissionDeniedError
from services.chassis.identity import bind_call, current_call
from services.gateway.keys import Keys

CHAT = "thumbwheel.chat.v1.ChatService"
FEEDBACK = "thumbwheel.feedback.v1.FeedbackService"


class Access(StrEnum):
    """What a method asks of its caller."""

    KEY = "key"
    KEY_OR_COOKIE = "key_or_cookie"  # for a page that a browser opens in a tab of its own; reading only
    PUBLIC = "public"


RULES: Mapping[str, Access] = {
    f"{CHAT}.SendMessage": Access.KEY,
    f"{CHAT}.ResumeMessage": Access.KEY,
    f"{CHAT}.CancelMessage": Access.KEY,
    f"{CHAT}.GetConversation": Access.KEY,
    f"{CHAT}.ListConversations": Access.KEY,
    f"{CHAT}.ClearConversation": Access.KEY,
    f"{CHAT}.DeleteConversation": Access.KEY,
    f"{FEEDBACK}.SubmitFeedback": Access.KEY,
}

Context = grpc.aio.ServicerContext[Any, Any]


def guarded(service: ServiceDescriptor, servicer: object, keys: Keys) -> Any:
    """The servicer with the check around every method of its descriptor. Runs inside the chassis' interceptor."""
    methods: dict[str, Any] = {}
    for method in service.methods:
        enter = _entrance(RULES.get(method.full_name), keys)
        behaviour = getattr(servicer, method.name)
        methods[method.name] = _stream(enter, behaviour) if method.server_streaming else _unary(enter, behaviour)
    return SimpleNamespace(**methods)


Entrance = Callable[[Message, Context], Awaitable[None]]


def _entrance(rule: Access | None, keys: Keys) -> Entrance:
    async def enter(request: Message, context: Context) -> None:
        if rule is None:
            raise PermissionDeniedError("no rule allows this method")
        if rule is Access.KEY:
            caller = await keys.authenticate(_authorization(context))
            bind_call(replace(current_call(), caller=caller))
        refuse_unknown_fields(request, "")

    return enter


def _unary(enter: Entrance, behaviour: Any) -> Any:
    async def call(request: Message, context: Context) -> Any:
        await enter(request, context)
        return await behaviour(request, context)

    return call


def _stream(enter: Entrance, behaviour: Any) -> Any:
    async def call(request: Message, context: Context) -> AsyncIterator[Any]:
        await enter(request, context)
        async for response in behaviour(request, context):
            yield response

    return call


def _authorization(context: Context) -> str:
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    # Two values: which one a proxy checked cannot be known.
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


def refuse_unknown_fields(message: Message, path: str) -> None:
    """Raises: InvalidArgumentError. What we do not understand we must not seem to obey."""
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]
        name = f"{path}{unknown.field_number}"
        raise InvalidArgumentError(
            f"field number {name} is not known", field=name, limit="the fields of the published protocol"
        )
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else (value,):
            refuse_unknown_fields(part, f"{path}{field.name}.")
