"""Servicer of SessionService: converts requests and responses and calls the domain.

Every method acts for the caller of the running call.
"""

from typing import Any

from thumbwheel.session.v1 import session_pb2, session_pb2_grpc

from services.chassis.identity import require_caller
from services.session.conversations import Conversations, Erasure
from services.session.turns import TurnBeginner, TurnFinisher
from services.session.wire import (
    block_proto,
    conversation_proto,
    message_proto,
)

SERVICE_NAME = "thumbwheel.session.v1.SessionService"


class SessionServicer(session_pb2_grpc.SessionServiceServicer):
    """Implementation of proto/thumbwheel/session/v1; errors are those of the domain."""

    def __init__(
        self,
        beginner: TurnBeginner,
        finisher: TurnFinisher,
        conversations: Conversations,
        erasure: Erasure,
    ) -> None:
        self._beginner = beginner
        self._finisher = finisher
        self._conversations = conversations
        self._erasure = erasure

    async def BeginTurn(
        self, request: session_pb2.BeginTurnRequest, context: Any
    ) -> session_pb2.BeginTurnResponse:
        return await self._beginner.begin(require_caller(), request)

    async def FinishTurn(
        self, request: session_pb2.FinishTurnRequest, context: Any
    ) -> session_pb2.FinishTurnResponse:
        await self._finisher.finish(require_caller(), request)
        return session_pb2.FinishTurnResponse()

    async def GetMessage(
        self, request: session_pb2.GetMessageRequest, context: Any
    ) -> session_pb2.GetMessageResponse:
        message, question_enhanced = await self._conversations.message(
            require_caller(), request.message_id
        )
        return session_pb2.GetMessageResponse(
            message=message_proto(message),
            question_enhanced=question_enhanced,
            block=block_proto(message),
        )

    async def GetConversation(
        self, request: session_pb2.GetConversationRequest, context: Any
    ) -> session_pb2.GetConversationResponse:
        found = await self._conversations.conversation(
            require_caller(), request.conversation_id, request.page_size, request.page_token
        )
        return session_pb2.GetConversationResponse(
            conversation=conversation_proto(found.conversation),
            messages=[message_proto(message) for message in found.messages],
            next_page_token=found.next_token,
        )

    async def ListConversations(
        self, request: session_pb2.ListConversationsRequest, context: Any
    ) -> session_pb2.ListConversationsResponse:
        page = await self._conversations.page(
            require_caller(), request.page_size, request.page_token
        )
        return session_pb2.ListConversationsResponse(
            conversations=[conversation_proto(conversation) for conversation in page.conversations],
            next_page_token=page.next_token,
        )

    async def ClearConversation(
        self, request: session_pb2.ClearConversationRequest, context: Any
    ) -> session_pb2.ClearConversationResponse:
        await self._erasure.clear(require_caller(), request.conversation_id)
        return session_pb2.ClearConversationResponse()

    async def DeleteConversation(
        self, request: session_pb2.DeleteConversationRequest, context: Any
    ) -> session_pb2.DeleteConversationResponse:
        await self._erasure.delete(require_caller(), request.conversation_id)
        return session_pb2.DeleteConversationResponse()

    async def EraseUser(
        self, request: session_pb2.EraseUserRequest, context: Any
    ) -> session_pb2.EraseUserResponse:
        return session_pb2.EraseUserResponse(
            removed_conversations=await self._erasure.erase_user(require_caller())
        )
