"""The page's API: the public gRPC methods with JSON and server-sent events.

Calling the servicers directly excludes differences between the APIs.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.feedback.v1 import feedback_pb2

from services.chassis.errors import ServiceError
from services.contracts.limits import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, field_error
from services.gateway.http.app import PAGE_QUERY, ProtectedRoute, Router
from services.gateway.http.body import read_bytes, read_message, to_json
from services.gateway.http.connection import EventStream, while_connected
from services.gateway.http.errors import error_body
from services.gateway.http.session import PageSessions
from services.gateway.identity.credential import Credential, Scope
from services.gateway.peers.feedback import FeedbackPeer
from services.gateway.peers.generator import GeneratorPeer
from services.gateway.servicer import ChatServicer, FeedbackServicer

Events = AsyncGenerator[chat_pb2.ChatEvent, None]
# The servicers do not use the gRPC context.
NO_CONTEXT: Any = None


class PageApi:
    """HTTP endpoints under /api."""

    def __init__(
        self,
        chat: ChatServicer,
        feedback: FeedbackServicer,
        generator: GeneratorPeer,
        feedback_log: FeedbackPeer,
    ) -> None:
        self._chat, self._feedback = chat, feedback
        self._generator, self._feedback_log = generator, feedback_log

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [
            router.route("POST /api/messages", self.send, is_proto_json=True),
            router.route("GET /api/messages/{message_id}/events", self.resume, query=("after",)),
            router.route("POST /api/messages/{message_id}/cancel", self.cancel),
            router.route("POST /api/feedback", self.submit, is_proto_json=True),
            router.route("GET /api/conversations", self.list_page, query=PAGE_QUERY),
            router.route("GET /api/conversations/{conversation_id}", self.get, query=PAGE_QUERY),
            router.route("DELETE /api/conversations/{conversation_id}", self.delete),
            router.route("POST /api/conversations/{conversation_id}/clear", self.clear),
            router.route("GET /api/consent", self.consent),
            router.route("PUT /api/consent", self.set_consent, is_proto_json=True),
            router.route("POST /api/erasure", self.erase),
            router.route("GET /api/erasure/{erasure_id}", self.erasure),
            router.route("GET /api/rollout", self.rollout),
            router.route("GET /api/experiment", self.experiment),
            router.route("GET /api/thumbs", self.thumbs, query=("since",)),
        ]

    async def send(self, request: Request) -> Response:
        message = await read_message(request, chat_pb2.SendMessageRequest)
        return await _stream(request, self._chat.SendMessage(message, NO_CONTEXT))

    async def resume(self, request: Request) -> Response:
        await read_bytes(request)
        after = request.headers.get("last-event-id") or request.query_params.get("after") or "0"
        # `isdigit` alone accepts other scripts, and `int` takes quadratic time for long texts.
        if not (after.isascii() and after.isdigit() and len(after) <= 9):
            raise field_error("after", "0 to 999,999,999")
        message = chat_pb2.ResumeMessageRequest(
            message_id=request.path_params["message_id"], after_sequence=int(after)
        )
        return await _stream(request, self._chat.ResumeMessage(message, NO_CONTEXT))

    async def cancel(self, request: Request) -> Response:
        message = chat_pb2.CancelMessageRequest(message_id=request.path_params["message_id"])
        return _json(await self._chat.CancelMessage(message, NO_CONTEXT))

    async def submit(self, request: Request) -> Response:
        message = await read_message(request, feedback_pb2.SubmitFeedbackRequest)
        return _json(await self._feedback.SubmitFeedback(message, NO_CONTEXT))

    async def list_page(self, request: Request) -> Response:
        message = chat_pb2.ListConversationsRequest(
            page_size=_page_size(request), page_token=request.query_params.get("page_token", "")
        )
        return _json(await self._chat.ListConversations(message, NO_CONTEXT))

    async def get(self, request: Request) -> Response:
        message = chat_pb2.GetConversationRequest(
            conversation_id=request.path_params["conversation_id"],
            page_size=_page_size(request),
            page_token=request.query_params.get("page_token", ""),
        )
        return _json(await self._chat.GetConversation(message, NO_CONTEXT))

    async def delete(self, request: Request) -> Response:
        message = chat_pb2.DeleteConversationRequest(
            conversation_id=request.path_params["conversation_id"]
        )
        return _json(await self._chat.DeleteConversation(message, NO_CONTEXT))

    async def clear(self, request: Request) -> Response:
        message = chat_pb2.ClearConversationRequest(
            conversation_id=request.path_params["conversation_id"]
        )
        return _json(await self._chat.ClearConversation(message, NO_CONTEXT))

    async def consent(self, request: Request) -> Response:
        return _json(await self._feedback.GetConsent(feedback_pb2.GetConsentRequest(), NO_CONTEXT))

    async def set_consent(self, request: Request) -> Response:
        message = await read_message(request, feedback_pb2.SetConsentRequest)
        return _json(await self._feedback.SetConsent(message, NO_CONTEXT))

    async def erase(self, request: Request) -> Response:
        return _json(
            await self._feedback.EraseMyData(feedback_pb2.EraseMyDataRequest(), NO_CONTEXT)
        )

    async def erasure(self, request: Request) -> Response:
        message = feedback_pb2.GetErasureRequest(erasure_id=request.path_params["erasure_id"])
        return _json(await self._feedback.GetErasure(message, NO_CONTEXT))

    async def experiment(self, request: Request) -> Response:
        return _json(await self._feedback_log.experiment())

    async def thumbs(self, request: Request) -> Response:
        text, since = request.query_params.get("since", ""), Timestamp()
        if text:
            try:
                since.FromJsonString(text)
            except ValueError as error:
                raise field_error("since", "a time as of RFC 3339") from error
        return _json(await self._feedback_log.count_thumbs(since if text else None))

    async def rollout(self, request: Request) -> Response:
        return _json(await self._generator.rollout())


def _page_size(request: Request) -> int:
    size = request.query_params.get("page_size", "0")
    if not (size.isascii() and size.isdigit() and len(size) <= 3):
        raise field_error("page_size", f"1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    return int(size)


async def _stream(request: Request, events: Events) -> Response:
    # Before the first event, an error can still be sent as an HTTP status.
    first = await while_connected(request, anext(events))
    return EventStream(_server_sent(first, events))


async def _server_sent(first: chat_pb2.ChatEvent, events: Events) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield _event(first)
        try:
            async for event in events:
                yield _event(event)
        except ServiceError as error:
            yield f"event: error\ndata: {json.dumps(error_body(error))}\n\n".encode()


def _event(event: chat_pb2.ChatEvent) -> bytes:
    return f"id: {event.sequence}\ndata: {json.dumps(to_json(event))}\n\n".encode()


def _json(message: Message) -> Response:
    return JSONResponse(to_json(message))


class Account:
    """Endpoints about the caller and the page's session."""

    def __init__(self, sessions: PageSessions) -> None:
        self._sessions = sessions

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        return [
            router.route("GET /api/account", self.show),
            router.route("POST /api/session", self.sign_in),
            router.route("DELETE /api/session", self.sign_out),
        ]

    async def show(self, request: Request) -> Response:
        """Return tenant, user and scopes, which decide about the content of the page."""
        cookie = self._sessions.cookie(request)
        has_session = cookie and "authorization" not in request.headers
        return _account(request, self._sessions.csrf_token(cookie) if has_session else "")

    async def sign_in(self, request: Request) -> Response:
        """Create a session for the key or token in the Authorization header."""
        return self._sessions.start(
            request.headers["authorization"], lambda token: _account(request, token)
        )

    async def sign_out(self, request: Request) -> Response:
        """Remove the session from the browser."""
        response = JSONResponse({})
        self._sessions.end(response)
        return response


def _account(request: Request, csrf_token: str) -> Response:
    credential: Credential = request.state.credential
    scopes = [scope for scope in Scope if scope in credential.scopes]
    account = {
        "tenant": credential.caller.tenant,
        "user": credential.caller.user,
        "scopes": scopes,
    }
    return JSONResponse({**account, "csrfToken": csrf_token} if csrf_token else account)
