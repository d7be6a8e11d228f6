"""The page's session: an HttpOnly cookie in place of the key, CSRF protection, sign-out."""

import time
from collections.abc import AsyncIterator
from http.cookies import Morsel, SimpleCookie
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from services.gateway.identity.authentication import digest_of, new_secret
from services.gateway.identity.credential import ALL_SCOPES, Scope
from tests.services.gateway.gateway_under_test import (
    ADA,
    PRINCIPAL_KEY,
    GatewayUnderTest,
    new_key,
    run_gateway,
)
from tests.services.gateway.issuer import AUDIENCE, running_issuer

pytestmark = pytest.mark.asyncio(loop_scope="module")

CSRF = "x-tw-csrf"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayUnderTest]:
    """Run a gateway whose keys are not cached, so that a revocation has effect at once."""
    folder = tmp_path_factory.mktemp("gateway")
    run = folder / "loop" / "runs" / "one"
    run.mkdir(parents=True)
    (run / "report.html").write_text("<h1>report</h1>")
    async with run_gateway(folder, key_cache_seconds=0) as opened:
        yield opened


async def call(
    gateway: GatewayUnderTest, route: str, headers: dict[str, str], body: object = None
) -> tuple[int, Any, Morsel[str] | None]:
    """Return status, JSON or text, and the cookie that the response sets."""
    method, path = route.split(" ")
    async with (
        aiohttp.ClientSession() as browser,
        browser.request(method, gateway.url + path, headers=headers, json=body) as response,
    ):
        is_json = response.content_type == "application/json"
        content = await response.json() if is_json else await response.text()
        cookies = SimpleCookie(response.headers.get("set-cookie", ""))
        return response.status, content, next(iter(cookies.values()), None)


async def sign_in(gateway: GatewayUnderTest, bearer: str) -> dict[str, str]:
    """Return the headers of the page after the sign-in."""
    status, account, cookie = await call(
        gateway, "POST /api/session", {"authorization": f"Bearer {bearer}"}
    )
    assert status == 200, account
    assert cookie
    return {"cookie": f"{cookie.key}={cookie.value}", CSRF: account["csrfToken"]}


def set_time(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """Set the wall clock of the process, the gateway included."""
    monkeypatch.setattr(time, "time", lambda: now)


async def test_sign_in_sets_a_cookie_that_scripts_cannot_read(gateway: GatewayUnderTest) -> None:
    """Finding S-24: the cookie `tw_key` was the whole key, readable by scripts, without an end."""
    status, account, cookie = await call(gateway, "POST /api/session", gateway.headers())
    assert status == 200
    assert (account["tenant"], account["user"]) == ("acme", "ada")
    assert cookie
    assert cookie["httponly"]
    assert (cookie["samesite"], cookie["path"], cookie["max-age"]) == ("strict", "/", "604800")
    assert (cookie.key, cookie["secure"]) == ("tw_session", "")
    for secret in (gateway.key, gateway.key.removeprefix("tw_"), digest_of(gateway.key).hex()):
        assert secret not in cookie.value
    status, shown, _ = await call(
        gateway, "GET /api/account", {"cookie": f"{cookie.key}={cookie.value}"}
    )
    assert (status, shown) == (200, account)


@pytest.mark.parametrize(
    ("changes", "is_secure"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "page_session_secure": False}, False),
    ],
)
async def test_cookie_requires_tls_unless_on_loopback(
    tmp_path: Path, changes: dict[str, Any], is_secure: bool
) -> None:
    """Finding S-24: the cookie had neither Secure nor Max-Age."""
    async with run_gateway(tmp_path, page_session_seconds=60, **changes) as gateway:
        _, _, cookie = await call(gateway, "POST /api/session", gateway.headers())
    assert cookie
    assert (bool(cookie["secure"]), cookie.key == "__Host-tw_session") == (is_secure, is_secure)
    assert cookie["max-age"] == "60"


async def test_session_authenticates_all_routes_of_the_page_and_no_others(
    gateway: GatewayUnderTest,
) -> None:
    """Finding S-24: the report's cookie was the key itself; reports use the session."""
    page = await sign_in(gateway, gateway.key)
    assert (await call(gateway, "GET /api/loop/report/one", page))[:2] == (200, "<h1>report</h1>")
    assert (await call(gateway, "GET /api/conversations", page))[0] == 200
    assert (await call(gateway, "PUT /api/consent", page, {"training": True}))[0] == 200
    assert (await call(gateway, "GET /v1/models", page))[0] == 401
    status, body, _ = await call(gateway, "POST /api/session", page)
    assert (status, body["error"]["code"]) == (401, "api_key_missing")
    for cookie in (f"tw_key={gateway.key}", f"tw_session={gateway.key}", "tw_session=x"):
        assert (await call(gateway, "GET /api/loop/report/one", {"cookie": cookie}))[0] == 401


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({CSRF: None}, CSRF),
        ({CSRF: "0" * 64}, CSRF),
        ({CSRF: "é"}, CSRF),
        ({"sec-fetch-site": "cross-site"}, "sec-fetch-site"),
        ({"sec-fetch-site": "same-site"}, "sec-fetch-site"),
        ({"sec-fetch-site": "none"}, "sec-fetch-site"),
        ({"origin": "https://evil.example"}, "origin"),
        ({"origin": "null"}, "origin"),
        ({"origin": "http://127.0.0.1:1"}, "origin"),
    ],
)
async def test_requests_of_other_sites_are_refused(
    gateway: GatewayUnderTest, changes: dict[str, str | None], field: str
) -> None:
    """Finding S-24: a cookie for the page must not let other sites act for its user."""
    page = {**await sign_in(gateway, gateway.key), **changes}
    headers = {name: value for name, value in page.items() if value is not None}
    status, body, _ = await call(gateway, "PUT /api/consent", headers, {"training": True})
    assert (status, body["error"]["param"]) == (403, field)
    # Requests with a key are unaffected.
    with_key = {name: value for name, value in headers.items() if name != "cookie"}
    status, _, _ = await call(
        gateway, "PUT /api/consent", {**with_key, **gateway.headers()}, {"training": True}
    )
    assert status == 200


async def test_reads_need_the_own_origin_and_no_token(gateway: GatewayUnderTest) -> None:
    """Finding S-24: a page on another port of the host must not read through the cookie."""
    page = await sign_in(gateway, gateway.key)
    del page[CSRF]
    for site, status in (("same-origin", 200), ("none", 200), ("same-site", 403)):
        headers = {**page, "sec-fetch-site": site}
        assert (await call(gateway, "GET /api/loop/report/one", headers))[0] == status


async def test_token_of_another_session_is_refused(gateway: GatewayUnderTest) -> None:
    """Finding S-13: a tab of one user must not write with the session of another user."""
    mine, other = await sign_in(gateway, gateway.key), await sign_in(gateway, gateway.other_key)
    status, body, _ = await call(
        gateway, "PUT /api/consent", {**mine, CSRF: other[CSRF]}, {"training": True}
    )
    assert (status, body["error"]["code"]) == (403, "csrf_token_invalid")


async def test_sign_out_removes_the_cookie(gateway: GatewayUnderTest) -> None:
    """Finding S-24: there was no sign-out."""
    page = await sign_in(gateway, gateway.key)
    status, _, cookie = await call(gateway, "DELETE /api/session", page)
    assert status == 200
    assert cookie
    assert (cookie.key, cookie.value, cookie["max-age"]) == ("tw_session", "", "0")
    assert (cookie["path"], cookie["samesite"], bool(cookie["httponly"])) == ("/", "strict", True)
    del page[CSRF]
    assert (await call(gateway, "DELETE /api/session", page))[0] == 403


@pytest.mark.parametrize("change", ["revoked", "rotated"])
async def test_session_ends_with_its_key(gateway: GatewayUnderTest, change: str) -> None:
    """Finding S-24: a session is refused when its key is revoked or rotated."""
    secret = await new_key(gateway.store, ADA)
    page = await sign_in(gateway, secret)
    ids = {key.digest: key.key_id for key in await gateway.store.list_keys()}
    key_id, now = ids[digest_of(secret)], time.time()
    if change == "revoked":
        await gateway.store.revoke(key_id, now)
    else:
        await gateway.store.rotate(key_id, digest_of(new_secret()), now, now)
    assert (await call(gateway, "GET /api/account", page))[0] == 401


async def test_session_ends_after_its_time(
    gateway: GatewayUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finding S-24: the key on a shared computer was kept without an end."""
    page, now = await sign_in(gateway, gateway.key), time.time()
    set_time(monkeypatch, now + 604_700)
    assert (await call(gateway, "GET /api/account", page))[0] == 200
    set_time(monkeypatch, now + 604_802)
    status, body, _ = await call(gateway, "GET /api/account", page)
    assert (status, body["error"]["code"]) == (401, "session_invalid")


async def test_session_needs_the_scope_of_the_account(gateway: GatewayUnderTest) -> None:
    """Finding S-13: the page must be able to show the user of every session."""
    secret = await new_key(gateway.store, ADA, scopes=ALL_SCOPES - {Scope.ACCOUNT})
    status, body, cookie = await call(
        gateway, "POST /api/session", {"authorization": f"Bearer {secret}"}
    )
    assert (status, body["error"]["code"], cookie) == (403, "scope_missing", None)


async def test_replicas_share_sessions_and_verify_them_on_every_request(tmp_path: Path) -> None:
    """Finding S-24: a session is valid as long as its key or token, with the same secret only."""
    async with running_issuer() as issuer:
        entry = {"issuer": issuer.url, "audience": AUDIENCE, "tenant": "acme"}
        async with run_gateway(tmp_path, oidc_issuers=(entry,)) as gateway:
            of_key = await sign_in(gateway, gateway.key)
            of_token = await sign_in(gateway, issuer.token())
            assert (await call(gateway, "GET /api/account", of_token))[0] == 200
            long = issuer.token(groups=["x" * 3_000])
            status, body, _ = await call(
                gateway, "POST /api/session", {"authorization": f"Bearer {long}"}
            )
            assert (status, body["error"]["code"]) == (400, "token_too_long")
    async with run_gateway(tmp_path) as replica:
        assert (await call(replica, "GET /api/account", of_key))[0] == 200
        status, body, _ = await call(replica, "GET /api/account", of_token)
        assert (status, body["error"]["code"]) == (401, "token_issuer")
    async with run_gateway(tmp_path, principal_key="another installation") as stranger:
        status, body, _ = await call(stranger, "GET /api/account", of_key)
        assert (status, body["error"]["code"]) == (401, "session_invalid")


async def test_page_is_isolated_from_other_origins(gateway: GatewayUnderTest) -> None:
    """Finding S-24: opener and resource policies, and Trusted Types, were missing."""
    async with gateway.http.get(f"{gateway.url}/health") as response:
        headers = response.headers
    assert "require-trusted-types-for 'script'" in headers["content-security-policy"]
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    # Browsers refuse a sandboxed page with the opener policy same-origin.
    async with gateway.http.get(
        f"{gateway.url}/api/loop/report/one", headers=gateway.headers()
    ) as response:
        assert response.headers["cross-origin-opener-policy"] == "unsafe-none"


async def test_secret_is_rotated_without_the_end_of_a_session(tmp_path: Path) -> None:
    """Each step is a gateway of its own, as replicas during a rolling restart."""
    old, new = "o" * 16, "n" * 16
    async with run_gateway(tmp_path, page_session_secrets=old) as gateway:
        key = gateway.key
        page = await sign_in(gateway, key)
    async with run_gateway(tmp_path, page_session_secrets=f"{old},{new}") as gateway:
        assert (await call(gateway, "GET /api/conversations", page))[0] == 200
    async with run_gateway(tmp_path, page_session_secrets=f"{new},{old}") as gateway:
        # With the CSRF token from before, as in an open page.
        assert (await call(gateway, "PUT /api/consent", page, {"training": True}))[0] == 200
        _, account, _ = await call(gateway, "GET /api/account", page)
        reloaded = {**page, CSRF: account["csrfToken"]}
        assert reloaded != page
        assert (await call(gateway, "PUT /api/consent", reloaded, {"training": True}))[0] == 200
        replaced = await sign_in(gateway, key)
    async with run_gateway(tmp_path, page_session_secrets=new) as gateway:
        assert (await call(gateway, "GET /api/conversations", page))[0] == 401
        assert (await call(gateway, "PUT /api/consent", replaced, {"training": True}))[0] == 200


async def test_first_own_secret_keeps_the_sessions_of_the_principal_key(tmp_path: Path) -> None:
    async with run_gateway(tmp_path) as gateway:
        page = await sign_in(gateway, gateway.key)
    secrets = f"{'n' * 16},{PRINCIPAL_KEY}"
    async with run_gateway(tmp_path, page_session_secrets=secrets) as gateway:
        assert (await call(gateway, "GET /api/conversations", page))[0] == 200


@pytest.mark.parametrize("secrets", ["short", f"{'n' * 16},", f"{'n' * 16},short"])
async def test_short_session_secret_is_rejected_and_hidden(tmp_path: Path, secrets: str) -> None:
    with pytest.raises(ValueError, match="page_session_secrets") as caught:
        async with run_gateway(tmp_path, page_session_secrets=secrets):
            pass
    assert "short" not in str(caught.value).replace("too_short", "")
