"""The arena over gRPC and HTTP: calls reach the review service with the identity of the user."""

from typing import Any

import pytest
from thumbwheel.generator.v1 import generator_pb2
from thumbwheel.review.v1 import arena_pb2

from services.gateway.identity.credential import Scope
from tests.services.gateway.fakes import CANDIDATE, STABLE
from tests.services.gateway.gateway_under_test import ADA, GatewayUnderTest, new_key

EXTERNAL = generator_pb2.ExternalModel(
    name="external.rival", developer="Example", licence="proprietary", endpoint_model="rival-2"
)
MESSAGES = ["018f0000-0000-7000-8000-00000000000a", "018f0000-0000-7000-8000-00000000000b"]


async def call(
    gateway: GatewayUnderTest, method: str, path: str, body: object = None, key: str | None = None
) -> tuple[int, Any]:
    async with gateway.http.request(
        method, gateway.url + path, json=body, headers=gateway.headers(key)
    ) as response:
        return response.status, await response.json()


async def test_battle_is_created_voted_and_revealed_over_http(gateway: GatewayUnderTest) -> None:
    status, created = await call(gateway, "POST", "/api/arena/battles", {"requestId": "one"})
    assert status == 200
    battle = created["battle"]
    path = f"/api/arena/battles/{battle['battleId']}"
    assert battle["models"] == [f"battle.{battle['battleId']}.{side}" for side in "ab"]
    assert (battle["outcome"], battle["modelVersions"]) == ("OUTCOME_UNSPECIFIED", [])
    assert await call(gateway, "GET", path) == (200, {"battle": battle})

    body = {"messageIds": MESSAGES, "outcome": "OUTCOME_FIRST"}
    status, voted = await call(gateway, "POST", f"{path}/vote", body)
    assert (status, voted["battle"]["modelVersions"]) == (200, [STABLE, CANDIDATE])
    (vote,) = gateway.fakes.review.votes
    assert (vote.battle_id, list(vote.message_ids)) == (battle["battleId"], MESSAGES)
    # The error of the review service is passed on.
    body["outcome"] = "OUTCOME_TIE"
    status, error = await call(gateway, "POST", f"{path}/vote", body)
    assert (status, error["error"]["param"]) == (409, "outcome")


async def test_battle_belongs_to_its_user(gateway: GatewayUnderTest) -> None:
    request = arena_pb2.CreateBattleRequest(request_id="one")
    ids = set()
    for key in (gateway.key, gateway.other_key, gateway.namesakes_key):
        created = await gateway.arena.CreateBattle(
            request, timeout=10, metadata=gateway.metadata(key)
        )
        ids.add(created.battle.battle_id)
    owners = [owner for owner, _ in gateway.fakes.review.battles.values()]
    assert (len(ids), owners) == (3, ["acme/ada", "acme/bob", "umbrella/ada"])


async def test_vote_names_the_battle_of_its_path(gateway: GatewayUnderTest) -> None:
    body = {"battleId": MESSAGES[1], "messageIds": MESSAGES, "outcome": "OUTCOME_TIE"}
    status, error = await call(gateway, "POST", f"/api/arena/battles/{MESSAGES[0]}/vote", body)
    assert (status, error["error"]["param"]) == (400, "battleId")
    assert not gateway.fakes.review.votes


@pytest.mark.parametrize(
    ("query", "topic", "style_control"),
    [
        ("", "", False),
        ("?topic=code&style_control=true", "code", True),
        ("?style_control=false", "", False),
    ],
)
async def test_leaderboard_has_topic_and_style_control(
    gateway: GatewayUnderTest, query: str, topic: str, style_control: bool
) -> None:
    status, board = await call(gateway, "GET", f"/api/arena/leaderboard{query}")
    assert (status, board["entries"][0]["model"], board["votes"]) == (200, STABLE, "3")
    (asked,) = gateway.fakes.review.leaderboards
    assert (asked.topic, asked.style_control) == (topic, style_control)


async def test_errors_name_parameters_of_the_url_as_in_the_url(gateway: GatewayUnderTest) -> None:
    battle = f"/api/arena/battles/{MESSAGES[0]}"
    body = {"messageIds": MESSAGES, "outcome": "OUTCOME_TIE"}
    for method, path, sent in (("GET", battle, None), ("POST", f"{battle}/vote", body)):
        status, error = await call(gateway, method, path, sent)
        assert (status, error["error"]["param"]) == (404, "battle_id"), path


@pytest.mark.parametrize(
    ("path", "param", "words"),
    [
        ("/api/arena/leaderboard?topik=code", "topik", "style_control, topic"),
        ("/api/arena/leaderboard?topic=a&topic=b", "topic", "one value"),
        ("/api/models?page_size=5", "page_size", "no query parameters"),
        ("/api/reviews/disagreements?size=5", "size", "page_size, page_token"),
        ("/api/conversations?%0Aforged=1", "query", "page_size, page_token"),
    ],
)
async def test_unknown_query_parameters_are_refused_by_name(
    gateway: GatewayUnderTest, path: str, param: str, words: str
) -> None:
    status, error = await call(gateway, "GET", path)
    assert (status, error["error"]["param"]) == (400, param)
    assert words in error["error"]["message"]
    assert "forged" not in error["error"]["message"]


async def test_clients_of_v1_may_send_further_parameters(gateway: GatewayUnderTest) -> None:
    assert (await call(gateway, "GET", "/v1/models?api-version=2026-01-01"))[0] == 200


async def test_unknown_value_of_style_control_is_refused(gateway: GatewayUnderTest) -> None:
    status, error = await call(gateway, "GET", "/api/arena/leaderboard?style_control=yes")
    assert (status, error["error"]["param"]) == (400, "style_control")
    assert not gateway.fakes.review.leaderboards


async def test_votes_need_the_scope_feedback_and_the_rest_chat(gateway: GatewayUnderTest) -> None:
    vote = f"/api/arena/battles/{MESSAGES[0]}/vote"
    calls = [
        ("POST", "/api/arena/battles", {"requestId": "one"}),
        ("GET", "/api/arena/leaderboard", None),
        ("GET", "/api/models", None),
        ("POST", vote, {"messageIds": MESSAGES, "outcome": "OUTCOME_TIE"}),
    ]
    allowed = {}
    for scope in (Scope.CHAT, Scope.FEEDBACK):
        key = await new_key(gateway.store, ADA, scopes=frozenset({scope}))
        allowed[scope] = [
            path
            for method, path, body in calls
            if (await call(gateway, method, path, body, key))[0] != 403
        ]
    assert allowed == {Scope.CHAT: [path for _, path, _ in calls[:3]], Scope.FEEDBACK: [vote]}


async def test_models_are_the_served_versions_and_external_models(
    gateway: GatewayUnderTest,
) -> None:
    models = [STABLE, CANDIDATE]
    assert await call(gateway, "GET", "/api/models") == (200, {"models": models, "external": []})
    gateway.fakes.generator.external = [EXTERNAL]
    shown = {"model": EXTERNAL.name, "developer": "Example", "licence": "proprietary"}
    assert await call(gateway, "GET", "/api/models") == (
        200,
        {"models": models, "external": [shown]},
    )


async def test_external_model_answers_in_battles_only(gateway: GatewayUnderTest) -> None:
    gateway.fakes.generator.external = [EXTERNAL]
    body = {"input": {"text": "hello"}, "model": EXTERNAL.name, "requestId": "one"}
    status, error = await call(gateway, "POST", "/api/messages", body)
    assert (status, error["error"]["param"]) == (404, "model")
    assert not gateway.fakes.generator.requests

    gateway.fakes.review.versions = (EXTERNAL.name, STABLE)
    _, created = await call(gateway, "POST", "/api/arena/battles", {"requestId": "one"})
    body["model"] = created["battle"]["models"][0]
    async with gateway.http.post(
        f"{gateway.url}/api/messages", json=body, headers=gateway.headers()
    ) as response:
        text = await response.text()
    assert response.status == 200
    assert EXTERNAL.name not in text
    (asked,) = gateway.fakes.generator.requests
    assert asked.pinned_version == EXTERNAL.name


async def test_unavailable_review_service_is_reported(gateway: GatewayUnderTest) -> None:
    gateway.fakes.review.away = True
    status, error = await call(gateway, "POST", "/api/arena/battles", {"requestId": "one"})
    assert (status, error["error"]["type"]) == (503, "unavailable_error")
