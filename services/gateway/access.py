"""Who may call what: one rule an RPC, one a route, and what has no rule is denied.

Identity is made here and nowhere else: the metadata that carries it between services is not
believed from outside.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from services.chassis.errors import InvalidArgumentError, PermissionDeniedError
from services.chassis.identity import bind_call, current_call
from services.gateway.bearer import Bearers
from services.gateway.credential import NOBODY, Credential, Scope


@dataclass(frozen=True)
class Rule:
    """What is asked of a caller; scope None: nothing, everybody may."""

    scope: Scope | None
    cookie: bool = False  # for a page that a browser opens in a tab of its own; reading only


EVERYBODY = Rule(None)
CHAT, FEEDBACK, ACCOUNT, OPERATE = (
    Rule(Scope.CHAT),
    Rule(Scope.FEEDBACK),
    Rule(Scope.ACCOUNT),
    Rule(Scope.OPERATE),
)

RPCS: Mapping[str, Rule] = {
    "thumbwheel.chat.v1.ChatService.SendMessage": CHAT,
    "thumbwheel.chat.v1.ChatService.ResumeMessage": CHAT,
    "thumbwheel.chat.v1.ChatService.CancelMessage": CHAT,
    "thumbwheel.chat.v1.ChatService.GetConversation": CHAT,
    "thumbwheel.chat.v1.ChatService.ListConversations": CHAT,
    "thumbwheel.chat.v1.ChatService.ClearConversation": CHAT,
    "thumbwheel.chat.v1.ChatService.DeleteConversation": CHAT,
    "thumbwheel.feedback.v1.FeedbackService.SubmitFeedback": FEEDBACK,
    "thumbwheel.feedback.v1.FeedbackService.GetConsent": ACCOUNT,
    "thumbwheel.feedback.v1.FeedbackService.SetConsent": ACCOUNT,
    "thumbwheel.feedback.v1.FeedbackService.EraseMyData": ACCOUNT,
    "thumbwheel.feedback.v1.FeedbackService.GetErasure": ACCOUNT,
}

PAGE_FILES = "GET /"  # the files of the page, and all paths that no other route takes
ROUTES: Mapping[str, Rule] = {
    "GET /health": EVERYBODY,
    "GET /metrics": EVERYBODY,
    PAGE_FILES: EVERYBODY,
    "POST /v1/chat/completions": CHAT,
    "GET /v1/models": CHAT,
    "GET /v1/models/{model}": CHAT,
    "POST /api/messages": CHAT,
    "GET /api/messages/{message_id}/events": CHAT,
    "POST /api/messages/{message_id}/cancel": CHAT,
    "GET /api/conversations": CHAT,
    "GET /api/conversations/{conversation_id}": CHAT,
    "DELETE /api/conversations/{conversation_id}": CHAT,
    "POST /api/conversations/{conversation_id}/clear": CHAT,
    "POST /api/feedback": FEEDBACK,
    "GET /api/account": ACCOUNT,
    "GET /api/consent": ACCOUNT,
    "PUT /api/consent": ACCOUNT,
    "POST /api/erasure": ACCOUNT,
    "GET /api/erasure/{erasure_id}": ACCOUNT,
    "GET /api/rollout": OPERATE,
    "GET /api/experiment": OPERATE,
    "GET /api/thumbs": OPERATE,
    "GET /api/loop": OPERATE,
    "GET /api/loop/report/{run}": Rule(Scope.OPERATE, cookie=True),
}

Context = grpc.aio.ServicerContext[Any, Any]


async def admitted(rule: Rule | None, authorization: str, bearers: Bearers) -> Credential:
    """What the caller carries, if the rule lets them in.

    Raises:
        PermissionDeniedError: there is no rule, or the credential lacks the scope.
        UnauthenticatedError, UnavailableError: see `Bearers`.
    """
    if rule is None:
        raise PermissionDeniedError("no rule allows this", reason="NO_RULE")
    if rule.scope is None:
        return NOBODY
    credential = await bearers.authenticate(authorization)
    if rule.scope not in credential.scopes:
        raise PermissionDeniedError(
            "the key or token may not be used for this",
            reason="SCOPE_MISSING",
            field="authorization",
            limit=f"one with the scope {rule.scope}",
        )
    return credential


def guarded(service: ServiceDescriptor, servicer: object, bearers: Bearers) -> Any:
    """The servicer with the check around every method of its descriptor. Runs inside the chassis'
    interceptor.
    """
    methods: dict[str, Any] = {}
    for method in service.methods:
        enter = _entrance(RPCS.get(method.full_name), bearers)
        behaviour = getattr(servicer, method.name)
        methods[method.name] = (
            _stream(enter, behaviour) if method.server_streaming else _unary(enter, behaviour)
        )
    return SimpleNamespace(**methods)


Entrance = Callable[[Message, Context], Awaitable[None]]


def _entrance(rule: Rule | None, bearers: Bearers) -> Entrance:
    async def enter(request: Message, context: Context) -> None:
        credential = await admitted(rule, _authorization(context), bearers)
        bind_call(replace(current_call(), caller=credential.caller))
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
            f"field number {name} is not known",
            field=name,
            limit="the fields of the published protocol",
        )
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for part in value if field.is_repeated else (value,):
            refuse_unknown_fields(part, f"{path}{field.name}.")
