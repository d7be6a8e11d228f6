"""Stored conversations of the caller, with the caller's feedback added."""

import logging

from thumbwheel.chat.v1 import chat_pb2
from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.channel import call_unary
from services.chassis.errors import ServiceError
from services.chassis.telemetry import fields
from services.contracts.limits import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE, field_error
from services.gateway.peers.feedback import FeedbackPeer
from services.gateway.turns.request import check_uuid

log = logging.getLogger(__name__)

PEER = "session"


class ConversationsPeer:
    """Reads and removes conversations. The session service checks the owner."""

    def __init__(
        self,
        stub: session_pb2_grpc.SessionServiceStub,
        feedback: FeedbackPeer,
        within_seconds: float,
    ) -> None:
        self._stub, self._feedback, self._within_seconds = stub, feedback, within_seconds

    async def get(
        self, request: chat_pb2.GetConversationRequest
    ) -> chat_pb2.GetConversationResponse:
        """Return a conversation with all messages.

        Raises:
            NotFoundError: The conversation is unknown.
        """
        check_uuid(request.conversation_id, "conversation_id")
        asked = session_pb2.GetConversationRequest(conversation_id=request.conversation_id)
        found = await call_unary(
            PEER, self._stub.GetConversation, asked, within_seconds=self._within_seconds
        )
        response = chat_pb2.GetConversationResponse(
            conversation=found.conversation, messages=found.messages
        )
        await self._add_feedback(response)
        return response

    async def list_page(
        self, request: chat_pb2.ListConversationsRequest
    ) -> chat_pb2.ListConversationsResponse:
        """Return one page of conversations, last used first."""
        if request.page_size > MAX_PAGE_SIZE:
            raise field_error("page_size", f"1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
        asked = session_pb2.ListConversationsRequest(
            page_size=request.page_size, page_token=request.page_token
        )
        found = await call_unary(
            PEER, self._stub.ListConversations, asked, within_seconds=self._within_seconds
        )
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
        await call_unary(
            PEER, self._stub.ClearConversation, asked, within_seconds=self._within_seconds
        )
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
        await call_unary(
            PEER, self._stub.DeleteConversation, asked, within_seconds=self._within_seconds
        )
        return chat_pb2.DeleteConversationResponse()

    async def _add_feedback(self, response: chat_pb2.GetConversationResponse) -> None:
        answers = {
            message.id: message
            for message in response.messages
            if message.role == chat_pb2.ROLE_ASSISTANT
        }
        if not answers:
            return
        try:
            feedback = await self._feedback.current_feedback(list(answers))
        except ServiceError as error:
            # The conversation is more important than its feedback, so an outage only hides the
            # feedback.
            log.warning("thumbs not shown", extra=fields(reason=error.reason))
            return
        for message_id, up in feedback.thumbs.items():
            if message_id in answers:
                answers[message_id].thumb_up = up
        for message_id, words in feedback.words.items():
            if message_id in answers:
                answers[message_id].thumb_reasons.extend(words.reasons)
                answers[message_id].thumb_comment = words.comment
                answers[message_id].correction = words.correction
