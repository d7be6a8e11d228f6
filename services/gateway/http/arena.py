"""The page's API of the arena, and the models that can be compared side by side."""

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from thumbwheel.review.v1 import arena_pb2

from services.contracts.limits import field_error
from services.gateway.http.app import ProtectedRoute, Router
from services.gateway.http.body import name_by_path, read_message, to_json
from services.gateway.http.page import NO_CONTEXT
from services.gateway.peers.generator import GeneratorPeer, versions_of
from services.gateway.servicer import ArenaServicer

SWITCH = {"": False, "false": False, "true": True}


class ArenaApi:
    """HTTP endpoints under /api/arena, and /api/models."""

    def __init__(self, arena: ArenaServicer, generator: GeneratorPeer) -> None:
        self._arena, self._generator = arena, generator

    def routes(self, router: Router) -> list[ProtectedRoute]:
        """Return the routes. Their rules are in access.py."""
        battle = "/api/arena/battles/{battle_id}"
        return [
            router.route("GET /api/models", self.models),
            router.route("POST /api/arena/battles", self.create, is_proto_json=True),
            router.route(f"GET {battle}", self.get),
            router.route(f"POST {battle}/vote", self.vote, is_proto_json=True),
            router.route(
                "GET /api/arena/leaderboard", self.leaderboard, query=("topic", "style_control")
            ),
        ]

    async def models(self, request: Request) -> Response:
        """Return the versions that a request may name, and the external models of battles."""
        rollout = await self._generator.rollout()
        external = [
            {"model": model.name, "developer": model.developer, "licence": model.licence}
            for model in rollout.external_models
        ]
        return JSONResponse({"models": versions_of(rollout), "external": external})

    async def create(self, request: Request) -> Response:
        message = await read_message(request, arena_pb2.CreateBattleRequest)
        return JSONResponse(to_json(await self._arena.CreateBattle(message, NO_CONTEXT)))

    async def get(self, request: Request) -> Response:
        message = arena_pb2.GetBattleRequest(battle_id=request.path_params["battle_id"])
        return JSONResponse(to_json(await self._arena.GetBattle(message, NO_CONTEXT)))

    async def vote(self, request: Request) -> Response:
        message = await read_message(request, arena_pb2.VoteBattleRequest)
        name_by_path(request, message, "battle_id")
        return JSONResponse(to_json(await self._arena.VoteBattle(message, NO_CONTEXT)))

    async def leaderboard(self, request: Request) -> Response:
        style = request.query_params.get("style_control", "")
        if style not in SWITCH:
            raise field_error("style_control", "true or false")
        message = arena_pb2.GetLeaderboardRequest(
            topic=request.query_params.get("topic", ""), style_control=SWITCH[style]
        )
        return JSONResponse(to_json(await self._arena.GetLeaderboard(message, NO_CONTEXT)))
