"""Access to the inference port by programs, web pages and probes; the metrics port."""

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from services.predictor.errors import (
    ContentTypeError,
    ForbiddenError,
    PredictorError,
    UnauthenticatedError,
)
from services.predictor.http.access import OPEN_PATHS, AccessRules
from services.predictor.http.kserve import KServeRoutes, Readiness
from services.predictor.http.openai import OpenAIRoutes
from tests.services.predictor.conftest import BEARER, KEY, Predictor
from tests.services.predictor.streams import metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

JSON = {"Content-Type": "application/json"}
UNLOAD = "/v2/repository/models/tiny-1/unload"


async def send(predictor: Predictor, method: str, path: str, headers: dict[str, str]) -> int:
    """Return the status of a request with these headers and, for POST, the body {}."""
    body = b"{}" if method == "POST" else None
    async with aiohttp.request(
        method, predictor.url + path, headers=headers, data=body
    ) as response:
        return response.status


async def is_loaded(predictor: Predictor) -> bool:
    _, index = await predictor.post("/v2/repository/index", {})
    return [(entry["name"], entry["state"]) for entry in index] == [("tiny-1", "READY")]


def all_routes(predictor: Predictor) -> list[tuple[str, str]]:
    """Return method and path of each route, and of a path without a route."""
    routes = [
        *OpenAIRoutes(predictor.repository, 1).routes(),
        *KServeRoutes(predictor.repository, Readiness()).routes(),
    ]
    paths = [(route.method, route.path.replace("{version}", "tiny-1")) for route in routes]
    return [*paths, ("GET", "/nothing-here")]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer another key for tests"},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": KEY},
        {"Authorization": "Bearer ключ"},
    ],
)
async def test_every_path_except_the_health_checks_needs_the_key(
    predictor: Predictor, headers: dict[str, str]
) -> None:
    """Finding S-17: loading, unloading and completions were open."""
    found = {
        path: await send(predictor, method, path, {**JSON, **headers})
        for method, path in all_routes(predictor)
    }
    assert {path for path, status in found.items() if status != 401} == OPEN_PATHS
    assert await is_loaded(predictor)


async def test_a_web_page_cannot_unload_a_version(
    predictor: Predictor, refusals: list[PredictorError]
) -> None:
    """A page may send text/plain anywhere without asking. Not even with the key does it succeed."""
    simple = {"Content-Type": "text/plain", "Origin": "https://evil.example"}
    for headers in (simple, {**simple, **BEARER}, {**simple, "Origin": "null", **BEARER}):
        assert await send(predictor, "POST", UNLOAD, headers) == 403
    assert await is_loaded(predictor)
    assert await send(predictor, "POST", "/v1/completions", {**JSON, **simple, **BEARER}) == 403
    assert [(type(error), error.field) for error in refusals] == [(ForbiddenError, "Origin")]


async def test_control_calls_are_declared_as_json(
    predictor: Predictor, refusals: list[PredictorError]
) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert await send(predictor, "POST", UNLOAD, {"Content-Type": kind, **BEARER}) == 415
    assert await is_loaded(predictor)
    headers = {"Content-Type": "text/plain", **BEARER}
    assert await send(predictor, "POST", "/v1/completions", headers) == 415
    assert [(type(error), error.limit) for error in refusals] == [
        (ContentTypeError, "application/json")
    ]


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("127.0.0.1:8000", True),
        ("10.1.2.3:8000", True),
        ("[::1]:8000", True),
        ("localhost:8000", True),
        ("LOCALHOST", True),
        ("predictor:8000", True),
        ("v1-predictor.chat.svc:8000", True),
        ("predictor.", True),
        ("evil.example:8000", False),
        ("predictor.evil.example", False),
        ("localhost.evil.example", False),
        ("chat.svc.evil.example", False),
        ("chat.svc", False),
        ("127.0.0.1.evil.example", False),
        ("[::1", False),
        ("", False),
    ],
)
async def test_a_host_name_that_an_attacker_chose_is_refused(
    predictor: Predictor, host: str, allowed: bool
) -> None:
    """DNS rebinding: the page's own name points here, so the browser sends no Origin with GET."""
    status = await send(predictor, "GET", "/v1/models", {"Host": host, **BEARER})
    assert status == (200 if allowed else 403)


async def test_probes_need_neither_the_key_nor_a_host_name(predictor: Predictor) -> None:
    predictor.readiness.ready = True
    for path in OPEN_PATHS:
        assert await send(predictor, "GET", path, {"Host": "a.name.of.a.probe"}) == 200, path


@pytest.mark.parametrize(
    ("headers", "refused"), [({}, False), ({"Authorization": "Bearer x"}, True)]
)
async def test_during_an_upgrade_a_missing_key_is_accepted_and_a_wrong_one_is_not(
    headers: dict[str, str], refused: bool
) -> None:
    request = make_mocked_request("GET", "/v1/models", {"Host": "localhost", **headers})
    rules = AccessRules(KEY, require_key=False)
    if refused:
        with pytest.raises(UnauthenticatedError):
            rules.check(request)
    else:
        rules.check(request)


async def test_metrics_have_a_port_of_their_own_without_any_other_path(
    predictor: Predictor,
) -> None:
    status, text = await metrics(predictor)
    assert status == 200
    assert "thumbwheel_predictor_requests_total" in text
    assert (await predictor.get("/metrics"))[0] == 404
    for method, path in all_routes(predictor):
        url = predictor.metrics_url + path
        async with aiohttp.request(method, url, headers={**JSON, **BEARER}) as response:
            assert response.status == 404, path
