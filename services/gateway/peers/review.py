"""Client of the review service: the arena, and the versions behind the models of battles."""

from google.protobuf.message import Message
from thumbwheel.review.v1 import arena_pb2, arena_pb2_grpc

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
        within_seconds: float,
    ) -> None:
        self._arena, self._models, self._within_seconds = arena, models, within_seconds

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

    async def _call(self, method: UnaryMethod[ResponseT], request: Message) -> ResponseT:
        return await call_unary(PEER, method, request, within_seconds=self._within_seconds)
