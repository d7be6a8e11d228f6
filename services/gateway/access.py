"""Access rules: one rule per RPC and per HTTP route. Calls without a rule are denied.

This module is the only source of identity. Identity metadata from outside is ignored.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from google.protobuf.message import Message

from services.chassis.calls.answers import Context
from services.chassis.calls.interceptor import Authorize
from services.chassis.errors import InvalidArgumentError, PermissionDeniedError
from services.chassis.identity import bind_call, current_call
from services.gateway.identity.authentication import Authenticator
from services.gateway.identity.credential import ANONYMOUS, Credential, Scope
from services.gateway.identity.end_users import END_USER_KEY, EndUsers
from services.gateway.quotas.quota import Limit
from services.gateway.quotas.quotas import Quotas
from services.gateway.request_counts import check_message_counts


@dataclass(frozen=True)
class Rule:
    """Required scope of a call. `scope` None means public."""

    scope: Scope | None
    session: bool = False  # the page's session cookie is accepted in place of a key


PUBLIC = Rule(None)
CHAT, FEEDBACK, ACCOUNT = Rule(Scope.CHAT), Rule(Scope.FEEDBACK), Rule(Scope.ACCOUNT)
REVIEW = Rule(Scope.REVIEW)
PAGE_CHAT, PAGE_FEEDBACK, PAGE_ACCOUNT, PAGE_REVIEW, PAGE_OPERATE = (
    Rule(Scope.CHAT, session=True),
    Rule(Scope.FEEDBACK, session=True),
    Rule(Scope.ACCOUNT, session=True),
    Rule(Scope.REVIEW, session=True),
    Rule(Scope.OPERATE, session=True),
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
    "thumbwheel.review.v1.ArenaService.CreateBattle": CHAT,
    "thumbwheel.review.v1.ArenaService.GetBattle": CHAT,
    "thumbwheel.review.v1.ArenaService.VoteBattle": FEEDBACK,
    "thumbwheel.review.v1.ArenaService.GetLeaderboard": CHAT,
    "thumbwheel.review.v1.AppealService.SubmitAppeal": FEEDBACK,
    "thumbwheel.review.v1.AppealService.ListAppeals": FEEDBACK,
    "thumbwheel.review.v1.ReviewService.GetNextItem": REVIEW,
    "thumbwheel.review.v1.ReviewService.SubmitReview": REVIEW,
    "thumbwheel.review.v1.ReviewService.SkipItem": REVIEW,
    "thumbwheel.review.v1.ReviewService.ListDisagreements": REVIEW,
    "thumbwheel.review.v1.ReviewService.ResolveDisagreement": REVIEW,
    "thumbwheel.review.v1.ReviewService.GetAgreement": REVIEW,
}

PAGE_FILES = "GET /"  # the page's files, and all paths without another route
ROUTES: Mapping[str, Rule] = {
    "GET /health": PUBLIC,
    "GET /metrics": PUBLIC,
    PAGE_FILES: PUBLIC,
    "POST /v1/chat/completions": CHAT,
    "GET /v1/models": CHAT,
    "GET /v1/models/{model}": CHAT,
    "POST /api/messages": PAGE_CHAT,
    "GET /api/messages/{message_id}/events": PAGE_CHAT,
    "POST /api/messages/{message_id}/cancel": PAGE_CHAT,
    "GET /api/conversations": PAGE_CHAT,
    "GET /api/conversations/{conversation_id}": PAGE_CHAT,
    "DELETE /api/conversations/{conversation_id}": PAGE_CHAT,
    "POST /api/conversations/{conversation_id}/clear": PAGE_CHAT,
    "POST /api/feedback": PAGE_FEEDBACK,
    "GET /api/account": PAGE_ACCOUNT,
    "POST /api/session": ACCOUNT,
    "DELETE /api/session": PAGE_ACCOUNT,
    "GET /api/consent": PAGE_ACCOUNT,
    "PUT /api/consent": PAGE_ACCOUNT,
    "POST /api/erasure": PAGE_ACCOUNT,
    "GET /api/erasure/{erasure_id}": PAGE_ACCOUNT,
    "GET /api/models": PAGE_CHAT,
    "POST /api/arena/battles": PAGE_CHAT,
    "GET /api/arena/battles/{battle_id}": PAGE_CHAT,
    "POST /api/arena/battles/{battle_id}/vote": PAGE_FEEDBACK,
    "GET /api/arena/leaderboard": PAGE_CHAT,
    "POST /api/appeals": PAGE_FEEDBACK,
    "GET /api/appeals": PAGE_FEEDBACK,
    "GET /api/reviews/next": PAGE_REVIEW,
    "POST /api/reviews/{item_id}": PAGE_REVIEW,
    "POST /api/reviews/{item_id}/skip": PAGE_REVIEW,
    "GET /api/reviews/disagreements": PAGE_REVIEW,
    "POST /api/reviews/{item_id}/resolution": PAGE_REVIEW,
    "GET /api/reviews/agreement": PAGE_REVIEW,
    "GET /api/rollout": PAGE_OPERATE,
    "GET /api/experiment": PAGE_OPERATE,
    "GET /api/thumbs": PAGE_OPERATE,
    "GET /api/loop": PAGE_OPERATE,
    "GET /api/loop/report/{run}": PAGE_OPERATE,
    "GET /api/loop/versions": PAGE_OPERATE,
}


async def authorize(
    rule: Rule | None, authenticate: Callable[[], Awaitable[Credential]]
) -> Credential:
    """Return the caller's credential if the rule permits the call.

    Raises:
        PermissionDeniedError: No rule exists, or the credential lacks the scope.
        UnauthenticatedError: See `Authenticator.authenticate`.
        UnavailableError: See `Authenticator.authenticate`.
    """
    if rule is None:
        raise PermissionDeniedError("no access rule exists for this call", reason="NO_RULE")
    if rule.scope is None:
        return ANONYMOUS
    credential = await authenticate()
    if rule.scope not in credential.scopes:
        raise PermissionDeniedError(
            "the key or token lacks the required scope",
            reason="SCOPE_MISSING",
            field="authorization",
            limit=f"one with the scope {rule.scope}",
        )
    return credential


def access_check(authenticator: Authenticator, end_users: EndUsers, quotas: Quotas) -> Authorize:
    """Return the check of the callers, which the chassis makes before it receives a request."""

    async def check(method: str, context: Context) -> None:
        metadata = context.invocation_metadata() or ()
        values = [value for key, value in metadata if key == "authorization"]
        # With two values, the value checked by a proxy would be ambiguous.
        authorization = values[0] if len(values) == 1 and isinstance(values[0], str) else ""
        rule = RPCS.get(method[1:].replace("/", "."))
        credential = await authorize(rule, partial(authenticator.authenticate, authorization))
        names = [value for key, value in metadata if key == END_USER_KEY]
        caller = end_users.named_in_metadata(credential, names)
        await quotas.count(caller, Limit.CALLS)
        bind_call(replace(current_call(), caller=caller))

    return check


def with_known_fields(service: ServiceDescriptor, servicer: object) -> Any:
    """Wrap all methods of a servicer so that they reject unknown fields."""
    wrap = {True: _stream, False: _unary}
    methods = {
        method.name: wrap[method.server_streaming](getattr(servicer, method.name))
        for method in service.methods
    }
    return SimpleNamespace(**methods)


def _unary(behaviour: Any) -> Any:
    async def call(request: Message, context: Context) -> Any:
        check_message_counts(request)
        reject_unknown_fields(request)
        return await behaviour(request, context)

    return call


def _stream(behaviour: Any) -> Any:
    async def call(request: Message, context: Context) -> AsyncIterator[Any]:
        check_message_counts(request)
        reject_unknown_fields(request)
        async for response in behaviour(request, context):
            yield response

    return call


def reject_unknown_fields(message: Message) -> None:
    """Reject messages with unknown fields, because ignoring a field would pretend to apply it.

    Raises:
        InvalidArgumentError: The message, or a nested message, has an unknown field.
    """
    known = type(message)()
    known.CopyFrom(message)
    known.DiscardUnknownFields()
    if known.ByteSize() != message.ByteSize() and (name := _unknown_field(message, "")):
        raise InvalidArgumentError(
            f"field number {name} is not known",
            field=name,
            limit="the fields of the published protocol",
        )


def _unknown_field(message: Message, path: str) -> str:
    """Return path and number of the first unknown field, or "".

    `UnknownFieldSet` makes an object for each field, half a microsecond each, so the number is read
    from the bytes that remain without the known fields.
    """
    rest = type(message)()
    rest.CopyFrom(message)
    for field, _ in message.ListFields():
        rest.ClearField(field.name)
    if data := rest.SerializeToString():
        return f"{path}{_varint(data) >> 3}"
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                if name := _unknown_field(part, f"{path}{field.name}."):
                    return name
    return ""


def _varint(data: bytes) -> int:
    number = 0
    for position, byte in enumerate(data):
        number |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            break
    return number
