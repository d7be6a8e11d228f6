"""The public gRPC services. The page's HTTP API calls the same methods with JSON."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from thumbwheel.chat.v1 import chat_pb2, chat_pb2_grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc
from thumbwheel.review.v1 import (
    appeal_pb2,
    appeal_pb2_grpc,
    arena_pb2,
    arena_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
)

from services.chassis.identity import require_caller
from services.contracts.chat import Role
from services.contracts.limits import field_error
from services.gateway.feedback import Feedback, RatedMessages
from services.gateway.own_data import OwnData
from services.gateway.peers.feedback import FeedbackPeer
from services.gateway.peers.review import ReviewPeer
from services.gateway.peers.session import ConversationsPeer
from services.gateway.quotas.quota import Limit
from services.gateway.quotas.quotas import Quotas
from services.gateway.reviews import ReviewTexts
from services.gateway.turns.request import check_request, check_uuid
from services.gateway.turns.turns import Turns
from services.gateway.wire import turn_request


class ChatServicer(chat_pb2_grpc.ChatServiceServicer):
    """Turns and conversations of the caller."""

    def __init__(
        self, turns: Turns, messages: RatedMessages, conversations: ConversationsPeer
    ) -> None:
        self._turns, self._messages, self._conversations = turns, messages, conversations

    async def SendMessage(
        self, request: chat_pb2.SendMessageRequest, context: Any
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        wanted = turn_request(request)
        check_request(wanted)
        turn = self._turns.start(require_caller(), wanted)
        async with aclosing(turn.events_after(0)) as events:
            async for event in events:
                yield event

    async def ResumeMessage(
        self, request: chat_pb2.ResumeMessageRequest, context: Any
    ) -> AsyncGenerator[chat_pb2.ChatEvent, None]:
        check_uuid(request.message_id, "message_id")
        kept = await self._turns.resume(
            require_caller(), request.message_id, request.after_sequence
        )
        async with aclosing(kept) as events:
            async for event in events:
                yield event

    async def CancelMessage(
        self, request: chat_pb2.CancelMessageRequest, context: Any
    ) -> chat_pb2.CancelMessageResponse:
        check_uuid(request.message_id, "message_id")
        if turn := self._turns.find(require_caller(), request.message_id):
            return chat_pb2.CancelMessageResponse(cancelled=turn.cancel())
        # The turn is not local. The session service checks the owner.
        message = await self._messages.rated_message(request.message_id)
        if message.role is not Role.ASSISTANT:
            raise field_error("message_id", "an answer of the assistant, not a message of the user")
        cancelled = not message.finished and await self._turns.cancel_elsewhere(
            require_caller(), request.message_id
        )
        return chat_pb2.CancelMessageResponse(cancelled=cancelled)

    async def GetConversation(
        self, request: chat_pb2.GetConversationRequest, context: Any
    ) -> chat_pb2.GetConversationResponse:
        return await self._conversations.get(request)

    async def ListConversations(
        self, request: chat_pb2.ListConversationsRequest, context: Any
    ) -> chat_pb2.ListConversationsResponse:
        return await self._conversations.list_page(request)

    async def ClearConversation(
        self, request: chat_pb2.ClearConversationRequest, context: Any
    ) -> chat_pb2.ClearConversationResponse:
        return await self._conversations.clear(request)

    async def DeleteConversation(
        self, request: chat_pb2.DeleteConversationRequest, context: Any
    ) -> chat_pb2.DeleteConversationResponse:
        return await self._conversations.delete(request)


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """Feedback of the caller, and control over the caller's own data."""

    def __init__(self, feedback: Feedback, own_data: OwnData, log: FeedbackPeer) -> None:
        self._feedback, self._own_data, self._log = feedback, own_data, log

    async def SubmitFeedback(
        self, request: feedback_pb2.SubmitFeedbackRequest, context: Any
    ) -> feedback_pb2.SubmitFeedbackResponse:
        return await self._feedback.submit(require_caller(), request)

    async def GetConsent(
        self, request: feedback_pb2.GetConsentRequest, context: Any
    ) -> feedback_pb2.GetConsentResponse:
        return feedback_pb2.GetConsentResponse(consent=await self._log.consent())

    async def SetConsent(
        self, request: feedback_pb2.SetConsentRequest, context: Any
    ) -> feedback_pb2.SetConsentResponse:
        if not request.HasField("training"):
            raise field_error("training", "true or false")
        consent = await self._log.set_consent(training=request.training)
        return feedback_pb2.SetConsentResponse(consent=consent)

    async def EraseMyData(
        self, request: feedback_pb2.EraseMyDataRequest, context: Any
    ) -> feedback_pb2.EraseMyDataResponse:
        erasure, removed = await self._own_data.erase(require_caller())
        return feedback_pb2.EraseMyDataResponse(erasure=erasure, removed_conversations=removed)

    async def GetErasure(
        self, request: feedback_pb2.GetErasureRequest, context: Any
    ) -> feedback_pb2.GetErasureResponse:
        check_uuid(request.erasure_id, "erasure_id")
        return feedback_pb2.GetErasureResponse(erasure=await self._log.erasure(request.erasure_id))


class ArenaServicer(arena_pb2_grpc.ArenaServiceServicer):
    """Battles of the caller and the leaderboard of the tenant, by the review service."""

    def __init__(self, review: ReviewPeer) -> None:
        self._review = review

    async def CreateBattle(
        self, request: arena_pb2.CreateBattleRequest, context: Any
    ) -> arena_pb2.CreateBattleResponse:
        return await self._review.create_battle(request)

    async def GetBattle(
        self, request: arena_pb2.GetBattleRequest, context: Any
    ) -> arena_pb2.GetBattleResponse:
        return await self._review.battle(request)

    async def VoteBattle(
        self, request: arena_pb2.VoteBattleRequest, context: Any
    ) -> arena_pb2.VoteBattleResponse:
        return await self._review.vote(request)

    async def GetLeaderboard(
        self, request: arena_pb2.GetLeaderboardRequest, context: Any
    ) -> arena_pb2.GetLeaderboardResponse:
        return await self._review.leaderboard(request)


class AppealServicer(appeal_pb2_grpc.AppealServiceServicer):
    """Appeals of the caller against blocks of the guard, by the review service.

    The guard does not check the reason, since it quotes what the guard has blocked. Only reviewers
    read it, beside the blocked text.
    """

    def __init__(self, quotas: Quotas, review: ReviewPeer) -> None:
        self._quotas, self._review = quotas, review

    async def SubmitAppeal(
        self, request: appeal_pb2.SubmitAppealRequest, context: Any
    ) -> appeal_pb2.SubmitAppealResponse:
        await self._quotas.count(require_caller(), Limit.FEEDBACK)
        return await self._review.submit_appeal(request)

    async def ListAppeals(
        self, request: appeal_pb2.ListAppealsRequest, context: Any
    ) -> appeal_pb2.ListAppealsResponse:
        return await self._review.appeals(request)


class ReviewServicer(review_pb2_grpc.ReviewServiceServicer):
    """Items and reviews of the caller as a reviewer, by the review service."""

    def __init__(self, texts: ReviewTexts, review: ReviewPeer) -> None:
        self._texts, self._review = texts, review

    async def GetNextItem(
        self, request: review_pb2.GetNextItemRequest, context: Any
    ) -> review_pb2.GetNextItemResponse:
        return await self._review.next_item(request)

    async def SubmitReview(
        self, request: review_pb2.SubmitReviewRequest, context: Any
    ) -> review_pb2.SubmitReviewResponse:
        await self._texts.admit(require_caller(), request.review)
        return await self._review.submit_review(request)

    async def SkipItem(
        self, request: review_pb2.SkipItemRequest, context: Any
    ) -> review_pb2.SkipItemResponse:
        return await self._review.skip_item(request)

    async def ListDisagreements(
        self, request: review_pb2.ListDisagreementsRequest, context: Any
    ) -> review_pb2.ListDisagreementsResponse:
        return await self._review.disagreements(request)

    async def ResolveDisagreement(
        self, request: review_pb2.ResolveDisagreementRequest, context: Any
    ) -> review_pb2.ResolveDisagreementResponse:
        await self._texts.admit(require_caller(), request.review)
        return await self._review.resolve_disagreement(request)

    async def GetAgreement(
        self, request: review_pb2.GetAgreementRequest, context: Any
    ) -> review_pb2.GetAgreementResponse:
        return await self._review.agreement(request)
