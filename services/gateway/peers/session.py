"""Client of the session service: turns, messages and conversations of the current caller."""

import logging

from google.protobuf.message import Message
from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import ResponseT, UnaryMethod, call_unary
from services.chassis.errors import InvalidArgumentError, ResourceExhaustedError, ServiceError
from services.chassis.identity import request_id_from
from services.chassis.telemetry import fields
from services.contracts.chat import FinishReason, Task
from services.contracts.limits import (
    DEFAULT_PAGE_SIZE,
    MAX_PAGE_SIZE,
    ConversationLimitError,
    field_error,
    with_field,
)
from services.contracts.wire import FINISH_REASONS, ROLES, TASK_NUMBERS, TASKS
from services.gateway.answering.battle import shown_version
from services.gateway.feedback import RatedMessage
from services.gateway.peers.feedback import FeedbackPeer
from services.gateway.turns.request import Regenerate, TurnRequest, check_uuid

log = logging.getLogger(__name__)

PEER = "session"
# Fields of BeginTurnRequest and of its context under their names in the public API.
PUBLIC_FIELDS = {
    "user.text": "input.text",
    "user.original_text": "input.text",
    "reply_tokens": "sampling.max_tokens",
    "regenerate_message_id": "regenerate.message_id",
}


class _Client:
    """Calls of the session service."""

    def __init__(self, stub: session_pb2_grpc.SessionServiceStub, within_seconds: float) -> None:
        self._stub, self._within_seconds = stub, within_seconds

    async def _call(self, method: UnaryMethod[ResponseT], request: Message) -> ResponseT:
        return await call_unary(PEER, method, request, within_seconds=self._within_seconds)


class SessionPeer(_Client):
    """Begins and finishes turns, and reads messages, for the caller of the current call.

    Implements `feedback.RatedMessages` and `own_data.OwnConversations`.
    """

    async def begin_turn(
        self, request: TurnRequest, prompt: session_pb2.UserMessage
    ) -> session_pb2.BeginTurnResponse:
        """Store the user's message and an open answer. Idempotent by request_id.

        Raises:
            ConversationLimitError: The user has too many conversations.
            InvalidArgumentError: The session service refuses a field, named as in the public API.
            ServiceError: The session service failed.
        """
        message = session_pb2.BeginTurnRequest(
            conversation_id=request.conversation_id,
            parent_message_id=request.parent_message_id,
            # Without an id from the client, retries of the channel would begin a second turn.
            request_id=request.request_id or request_id_from(""),
            task=TASK_NUMBERS[request.task],
            reply_tokens=request.sampling.max_tokens or 0,
            client_keeps_conversation=request.client_keeps_conversation,
        )
        match request.action:
            case Regenerate(message_id):
                message.regenerate_message_id = message_id
            case session_pb2.UserMessage():
                message.user.CopyFrom(prompt)
                message.history.extend(request.history)
        try:
            return await self._call(self._stub.BeginTurn, message)
        except InvalidArgumentError as error:
            if error.field.startswith("history"):
                raise with_field(error, f"input.{error.field}") from error
            raise with_field(error, PUBLIC_FIELDS.get(error.field, error.field)) from error
        except ResourceExhaustedError as error:
            if error.reason == ConversationLimitError.reason:
                # Not a sign of load, which would lower the number of turns of all users.
                raise ConversationLimitError(error.text, limit=error.limit) from error
            raise

    async def finish_turn(self, answer: session_pb2.FinishTurnRequest) -> None:
        """Store an answer. Idempotent.

        Raises:
            ServiceError: The session service failed.
        """
        await self._call(self._stub.FinishTurn, answer)

    async def stored_prompt(self, message_id: str) -> session_pb2.UserMessage:
        """Return a user's message, named by its own id or by the id of its answer.

        Raises:
            NotFoundError: The message is unknown.
        """
        message = await self.message(message_id)
        if message.role == chat_pb2.ROLE_ASSISTANT:
            message = await self.message(message.parent_id)
        return session_pb2.UserMessage(
            original_text=message.original_text or message.text,
            text=message.text,
            edits=message.edits,
        )

    async def finished_answer(self, message_id: str) -> chat_pb2.Message | None:
        """Return the finished answer, or None while the answer is open.

        Raises:
            ServiceError: The session service failed.
        """
        message = await self.message(message_id)
        return None if _finish_reason(message) is FinishReason.OPEN else message

    async def rated_message(self, message_id: str) -> RatedMessage:
        response = await self._get(message_id)
        message = response.message
        is_told = response.HasField("question_enhanced")
        return RatedMessage(
            message.conversation_id,
            ROLES[message.role],
            message.model_version,
            message.arm,
            _finish_reason(message) is not FinishReason.OPEN,
            TASKS.get(message.task, Task.UNSPECIFIED),
            len(message.text),
            response.question_enhanced if is_told else None,
        )

    async def erase_user(self) -> int:
        response = await self._call(self._stub.EraseUser, session_pb2.EraseUserRequest())
        return response.removed_conversations

    async def message(self, message_id: str) -> chat_pb2.Message:
        """Return a message of the caller.

        Raises:
            NotFoundError: The message is unknown or belongs to another user.
        """
        return (await self._get(message_id)).message

    async def _get(self, message_id: str) -> session_pb2.GetMessageResponse:
        request = session_pb2.GetMessageRequest(message_id=message_id)
        return await self._call(self._stub.GetMessage, request)


def _check_page_size(page_size: int) -> None:
    if page_size > MAX_PAGE_SIZE:
        raise field_error("page_size", f"1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")


def _finish_reason(message: chat_pb2.Message) -> FinishReason:
    # An answer with an unknown reason counts as open.
    return FINISH_REASONS.get(message.finish_reason, FinishReason.OPEN)


class ConversationsPeer(_Client):
    """Reads and removes conversations. The session service checks the owner."""

    def __init__(
        self,
        stub: session_pb2_grpc.SessionServiceStub,
        feedback: FeedbackPeer,
        within_seconds: float,
    ) -> None:
        super().__init__(stub, within_seconds)
        self._feedback = feedback

    async def get(
        self, request: chat_pb2.GetConversationRequest
    ) -> chat_pb2.GetConversationResponse:
        """Return a conversation with a page of its messages, the newest first.

        Raises:
            InvalidArgumentError: The id, the page size or the page token is invalid.
            NotFoundError: The conversation is unknown.
        """
        check_uuid(request.conversation_id, "conversation_id")
        _check_page_size(request.page_size)
        asked = session_pb2.GetConversationRequest(
            conversation_id=request.conversation_id,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        found = await self._call(self._stub.GetConversation, asked)
        response = chat_pb2.GetConversationResponse(
            conversation=found.conversation,
            messages=found.messages,
            next_page_token=found.next_page_token,
        )
        answers = {
            message.id: message
            for message in response.messages
            if message.role == chat_pb2.ROLE_ASSISTANT
        }
        for answer in answers.values():
            answer.model_version = shown_version(answer)
        if not answers:
            return response
        try:
            feedback = await self._feedback.current_feedback(list(answers))
        except ServiceError as error:
            # The conversation is more important than its feedback, so an outage only hides the
            # feedback.
            log.warning("thumbs not shown", extra=fields(reason=error.reason))
            return response
        for message_id, up in feedback.thumbs.items():
            if message_id in answers:
                answers[message_id].thumb_up = up
        for message_id, words in feedback.words.items():
            if message_id in answers:
                answers[message_id].thumb_reasons.extend(words.reasons)
                answers[message_id].thumb_comment = words.comment
                answers[message_id].correction = words.correction
        return response

    async def list_page(
        self, request: chat_pb2.ListConversationsRequest
    ) -> chat_pb2.ListConversationsResponse:
        """Return one page of conversations, last used first."""
        _check_page_size(request.page_size)
        asked = session_pb2.ListConversationsRequest(
            page_size=request.page_size, page_token=request.page_token
        )
        found = await self._call(self._stub.ListConversations, asked)
        return chat_pb2.ListConversationsResponse(
            conversations=found.conversations, next_page_token=found.next_page_token
        )

    async def clear(
        self, request: chat_pb2.ClearConversationRequest
    ) -> chat_pb2.ClearConversationResponse:
        """Remove the messages of a conversation.

        Raises:
            NotFoundError: The conversation is unknown.
        """
        check_uuid(request.conversation_id, "conversation_id")
        asked = session_pb2.ClearConversationRequest(conversation_id=request.conversation_id)
        await self._call(self._stub.ClearConversation, asked)
        return chat_pb2.ClearConversationResponse()

    async def delete(
        self, request: chat_pb2.DeleteConversationRequest
    ) -> chat_pb2.DeleteConversationResponse:
        """Remove a conversation.

        Raises:
            NotFoundError: The conversation is unknown.
        """
        check_uuid(request.conversation_id, "conversation_id")
        asked = session_pb2.DeleteConversationRequest(conversation_id=request.conversation_id)
        await self._call(self._stub.DeleteConversation, asked)
        return chat_pb2.DeleteConversationResponse()
