"""Servicers of ArenaService and BattleModelService: convert, and call the domain.

Every method acts for the user of the running call.
"""

from typing import Any

from thumbwheel.review.v1 import arena_pb2, arena_pb2_grpc

from services.chassis.identity import Caller, require_caller
from services.contracts.identifiers import principal_of
from services.contracts.limits import field_error
from services.review.arena.battle import Voter
from services.review.arena.battles import Battles
from services.review.arena.leaderboard import Leaderboards
from services.review.arena.votes import Votes
from services.review.wire import OUTCOMES, battle_proto, leaderboard_proto

ARENA_NAME = "thumbwheel.review.v1.ArenaService"
MODELS_NAME = "thumbwheel.review.v1.BattleModelService"


class ArenaServicer(arena_pb2_grpc.ArenaServiceServicer):
    """Implementation of ArenaService in proto/thumbwheel/review/v1."""

    def __init__(
        self, principal_key: str, battles: Battles, votes: Votes, leaderboards: Leaderboards
    ) -> None:
        self._key, self._battles, self._votes = principal_key, battles, votes
        self._leaderboards = leaderboards

    async def CreateBattle(
        self, request: arena_pb2.CreateBattleRequest, context: Any
    ) -> arena_pb2.CreateBattleResponse:
        _, voter = _caller(self._key)
        battle = await self._battles.create(voter, request.request_id)
        return arena_pb2.CreateBattleResponse(battle=battle_proto(battle))

    async def GetBattle(
        self, request: arena_pb2.GetBattleRequest, context: Any
    ) -> arena_pb2.GetBattleResponse:
        _, voter = _caller(self._key)
        battle = await self._battles.get(voter, request.battle_id)
        return arena_pb2.GetBattleResponse(battle=battle_proto(battle))

    async def VoteBattle(
        self, request: arena_pb2.VoteBattleRequest, context: Any
    ) -> arena_pb2.VoteBattleResponse:
        caller, voter = _caller(self._key)
        if request.outcome not in OUTCOMES:
            raise field_error("outcome", f"one of {', '.join(OUTCOMES.values())}")
        battle = await self._votes.vote(
            caller, voter, request.battle_id, request.message_ids, OUTCOMES[request.outcome]
        )
        return arena_pb2.VoteBattleResponse(battle=battle_proto(battle))

    async def GetLeaderboard(
        self, request: arena_pb2.GetLeaderboardRequest, context: Any
    ) -> arena_pb2.GetLeaderboardResponse:
        tenant = require_caller().tenant
        board = await self._leaderboards.board(tenant, request.topic, style=request.style_control)
        return leaderboard_proto(board)


class BattleModelServicer(arena_pb2_grpc.BattleModelServiceServicer):
    """Implementation of BattleModelService in proto/thumbwheel/review/v1."""

    def __init__(self, principal_key: str, battles: Battles) -> None:
        self._key, self._battles = principal_key, battles

    async def ResolveBattleModel(
        self, request: arena_pb2.ResolveBattleModelRequest, context: Any
    ) -> arena_pb2.ResolveBattleModelResponse:
        _, voter = _caller(self._key)
        version = await self._battles.version_of(voter, request.model)
        return arena_pb2.ResolveBattleModelResponse(model_version=version)


def _caller(key: str) -> tuple[Caller, Voter]:
    """Return the user of the running call, also as a pseudonym."""
    caller = require_caller()
    return caller, Voter(caller.tenant, principal_of(key, caller))
