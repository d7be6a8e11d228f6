"""Client of the review service: the arena, appeals, the models of battles, and reviewers' items."""

from google.protobuf.message import Message
from thumbwheel.review.v1 import (
    appeal_pb2,
    appeal_pb2_grpc,
    arena_pb2,
    arena_pb2_grpc,
    review_pb2,
    review_pb2_grpc,
)

from services.chassis.channel import ResponseT, UnaryMethod, call_unary

PEER = "review"


class ReviewPeer:
    """Forwards calls for the caller of the current call; all methods raise ServiceError.

    The review service checks owner and limits, and its errors name the fields of the public API.
    """

    def __init__(
        self,
        arena: arena_pb2_grpc.ArenaServiceStub,
        models: arena_pb2_grpc.BattleModelServiceStub,
        appeals: appeal_pb2_grpc.AppealServiceStub,
        reviews: review_pb2_grpc.ReviewServiceStub,
        within_seconds: float,
    ) -> None:
        self._arena, self._models, self._reviews = arena, models, reviews
        self._appeals = appeals
        self._within_seconds = within_seconds

    async def battle_version(self, model: str) -> str:
        """Return the version behind a model of a battle of the caller.

        Raises:
            NotFoundError: No such battle of the caller exists.
            FailedPreconditionError: The battle has a vote.
        """
        request = arena_pb2.ResolveBattleModelRequest(model=model)
        return (await self._call(self._models.ResolveBattleModel, request)).model_version

    async def create_battle(
        self, request: arena_pb2.CreateBattleRequest
    ) -> arena_pb2.CreateBattleResponse:
        return await self._call(self._arena.CreateBattle, request)

    async def battle(self, request: arena_pb2.GetBattleRequest) -> arena_pb2.GetBattleResponse:
        return await self._call(self._arena.GetBattle, request)

    async def vote(self, request: arena_pb2.VoteBattleRequest) -> arena_pb2.VoteBattleResponse:
        return await self._call(self._arena.VoteBattle, request)

    async def leaderboard(
        self, request: arena_pb2.GetLeaderboardRequest
    ) -> arena_pb2.GetLeaderboardResponse:
        return await self._call(self._arena.GetLeaderboard, request)

    async def submit_appeal(
        self, request: appeal_pb2.SubmitAppealRequest
    ) -> appeal_pb2.SubmitAppealResponse:
        return await self._call(self._appeals.SubmitAppeal, request)

    async def appeals(
        self, request: appeal_pb2.ListAppealsRequest
    ) -> appeal_pb2.ListAppealsResponse:
        return await self._call(self._appeals.ListAppeals, request)

    async def next_item(
        self, request: review_pb2.GetNextItemRequest
    ) -> review_pb2.GetNextItemResponse:
        return await self._call(self._reviews.GetNextItem, request)

    async def submit_review(
        self, request: review_pb2.SubmitReviewRequest
    ) -> review_pb2.SubmitReviewResponse:
        return await self._call(self._reviews.SubmitReview, request)

    async def skip_item(self, request: review_pb2.SkipItemRequest) -> review_pb2.SkipItemResponse:
        return await self._call(self._reviews.SkipItem, request)

    async def disagreements(
        self, request: review_pb2.ListDisagreementsRequest
    ) -> review_pb2.ListDisagreementsResponse:
        return await self._call(self._reviews.ListDisagreements, request)

    async def resolve_disagreement(
        self, request: review_pb2.ResolveDisagreementRequest
    ) -> review_pb2.ResolveDisagreementResponse:
        return await self._call(self._reviews.ResolveDisagreement, request)

    async def agreement(
        self, request: review_pb2.GetAgreementRequest
    ) -> review_pb2.GetAgreementResponse:
        return await self._call(self._reviews.GetAgreement, request)

    async def _call(self, method: UnaryMethod[ResponseT], request: Message) -> ResponseT:
        return await call_unary(PEER, method, request, within_seconds=self._within_seconds)
