"""A website of the attacker in the browser of a signed-in user: cookie and CSRF."""

from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import pytest

from services.gateway.access import ROUTES
from tests.attacks.attacked import Attacked, authorized, error_of

ORIGIN = "http://evil.example"
# Requests that a browser sends with the cookie, by what it says about their cause.
CAUSES: Mapping[str, Mapping[str, str]] = {
    "another site": {"sec-fetch-site": "cross-site", "origin": ORIGIN},
    "another port of the host": {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:1"},
    "a typed address": {"sec-fetch-site": "none"},
    "an old browser": {"origin": ORIGIN},
    "a sandboxed frame": {"origin": "null"},
}
FORMS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
SESSION_ROUTES = [name for name, rule in ROUTES.items() if rule.session]
CHANGES = [name for name in SESSION_ROUTES if not name.startswith("GET")]


@dataclass(frozen=True)
class SignedIn:
    """Cookie and CSRF token of a user's session."""

    cookie: Mapping[str, str]
    token: str


async def sign_in(http: aiohttp.ClientSession, attacked: Attacked) -> SignedIn:
    url = f"{attacked.stack.http}/api/session"
    async with http.post(url, headers=authorized(attacked.bystander)) as response:
        [cookie] = response.cookies.values()
        assert cookie["httponly"] and cookie["samesite"].lower() == "strict"
        assert attacked.bystander.key not in cookie.value
        token = (await response.json())["csrfToken"]
    return SignedIn({"cookie": f"{cookie.key}={cookie.value}"}, token)


async def refusal(
    http: aiohttp.ClientSession, attacked: Attacked, route: str, headers: Mapping[str, str]
) -> tuple[int, str]:
    """Return status and code of a request to a route; its ids are those of no object."""
    method, _, path = route.partition(" ")
    url = attacked.stack.http + path.replace("{", "").replace("}", "")
    async with http.request(method, url, data=b"{}", headers=headers) as response:
        assert "set-cookie" not in response.headers
        return response.status, error_of(await response.json())


@pytest.mark.parametrize("cause", CAUSES)
async def test_requests_of_other_sites_have_no_session(
    attacked_system: Attacked, cause: str
) -> None:
    """A session is refused on every route, with its CSRF token too."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        session = await sign_in(http, attacked_system)
        headers = {**session.cookie, **CAUSES[cause], "x-tw-csrf": session.token}
        # A typed address may read: the user is the cause.
        routes = CHANGES if cause == "a typed address" else SESSION_ROUTES
        found = {route: await refusal(http, attacked_system, route, headers) for route in routes}
    assert found == dict.fromkeys(routes, (403, "cross_site_request"))


@pytest.mark.parametrize("kind", FORMS)
async def test_form_without_csrf_token_changes_nothing(
    attacked_system: Attacked, kind: str
) -> None:
    """A browser sends forms without asking; without the token each change is refused."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        session = await sign_in(http, attacked_system)
        headers = {**session.cookie, "content-type": kind}
        for token in ({}, {"x-tw-csrf": ""}, {"x-tw-csrf": session.token[:-1]}):
            found = {
                route: await refusal(http, attacked_system, route, {**headers, **token})
                for route in CHANGES
            }
            assert found == dict.fromkeys(CHANGES, (403, "csrf_token_invalid"))


async def test_token_of_one_session_is_not_valid_for_another(attacked_system: Attacked) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        mine, other = [await sign_in(http, attacked_system) for _ in range(2)]
        headers = {**mine.cookie, "x-tw-csrf": other.token}
        assert await refusal(http, attacked_system, "POST /api/erasure", headers) == (
            403,
            "csrf_token_invalid",
        )


async def test_altered_cookie_is_no_session(attacked_system: Attacked) -> None:
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        session = await sign_in(http, attacked_system)
        value = session.cookie["cookie"]
        flipped = value[:60] + ("A" if value[60] != "A" else "B") + value[61:]
        for cookie in (flipped, value[:-8], value.partition("=")[0] + "=x"):
            assert await refusal(
                http, attacked_system, "GET /api/conversations", {"cookie": cookie}
            ) == (401, "session_invalid")
