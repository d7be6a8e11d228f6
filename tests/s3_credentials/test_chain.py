"""Credentials of the environment: every origin, renewal before expiry, and no token in texts."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from minio.credentials.credentials import Credentials

from s3_credentials.chain import (
    REFRESH_SECONDS,
    RETRY_SECONDS,
    TRIES,
    CredentialChain,
    CredentialsError,
    Source,
)
from tests.support.credentials_server import (
    CONTAINER_TOKEN,
    CredentialsServer,
    issuing,
    web_identity,
)

STS = "AssumeRoleWithWebIdentity"
Environment = pytest.MonkeyPatch


@pytest.fixture
def server() -> CredentialsServer:
    return CredentialsServer()


@pytest.fixture
def url(server: CredentialsServer, monkeypatch: Environment) -> Iterator[str]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    with issuing(server) as url:
        yield url


@pytest.fixture
def token(server: CredentialsServer, tmp_path: Path) -> Iterator[Path]:
    """Token file of a web identity, as a cluster mounts it."""
    with web_identity(server, tmp_path):
        yield tmp_path / "token"


def chain(server: CredentialsServer) -> CredentialChain:
    return CredentialChain(server.now, lambda _seconds: None)


def session(found: Credentials) -> str | None:
    return found.session_token


def test_keys_of_the_environment_do_not_expire(url: str, monkeypatch: Environment) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "c")
    assert CredentialChain().retrieve() == Credentials("a", "b", "c")


@pytest.mark.usefixtures("token")
def test_web_identity_gets_a_role(server: CredentialsServer) -> None:
    found = chain(server).retrieve()
    assert (found.access_key, found.session_token) == ("temporary", "session-0")


def test_container_gets_credentials(
    url: str, server: CredentialsServer, monkeypatch: Environment, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(CONTAINER_TOKEN)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    assert session(chain(server).retrieve()) == "session-0"


def test_instance_gets_credentials(
    url: str, server: CredentialsServer, monkeypatch: Environment
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
    assert session(chain(server).retrieve()) == "session-0"


def test_credentials_are_renewed_before_they_expire(server: CredentialsServer, token: Path) -> None:
    found = chain(server)
    first = session(found.retrieve())
    server.clock = 900 - REFRESH_SECONDS - 2
    assert session(found.retrieve()) == first
    # A cluster writes a new token from time to time.
    server.identity = "second.web.identity"
    token.write_text(server.identity)
    server.clock = 900 - REFRESH_SECONDS + 2
    assert session(found.retrieve()) == "session-1"
    assert server.requests[STS] == 2


@pytest.mark.usefixtures("token")
def test_short_lifetime_is_renewed_at_half_of_it(server: CredentialsServer) -> None:
    server.lifetime_seconds = 60
    found = chain(server)
    tokens = []
    for server.clock in (0, 20, 40, 60, 80):
        tokens.append(session(found.retrieve()))
    assert tokens == ["session-0", "session-0", "session-1", "session-1", "session-2"]


@pytest.mark.usefixtures("token")
def test_present_credentials_serve_while_renewal_fails(server: CredentialsServer) -> None:
    found = chain(server)
    found.retrieve()
    server.clock, server.statuses = 700, [503] * TRIES
    assert [session(found.retrieve()) for _ in range(5)] == ["session-0"] * 5
    assert server.requests[STS] == 1 + TRIES, "failed renewals are not repeated at once"
    server.clock += RETRY_SECONDS + 1
    assert session(found.retrieve()) == "session-1"


@pytest.mark.usefixtures("token")
def test_expired_credentials_are_not_returned(server: CredentialsServer) -> None:
    found = chain(server)
    found.retrieve()
    server.clock, server.statuses = 901, [503] * TRIES
    with pytest.raises(CredentialsError) as caught:
        found.retrieve()
    assert (caught.value.source, caught.value.refused) == (Source.WEB_IDENTITY, False)
    assert session(found.retrieve()) == "session-1"


@pytest.mark.usefixtures("token")
def test_brief_failure_is_repeated(server: CredentialsServer) -> None:
    server.statuses = [503] * (TRIES - 1)
    assert session(chain(server).retrieve()) == "session-0"


@pytest.mark.usefixtures("token")
def test_concurrent_callers_share_one_renewal(server: CredentialsServer) -> None:
    found = chain(server)
    with ThreadPoolExecutor(8) as pool:
        tokens = {session(each) for each in pool.map(lambda _: found.retrieve(), range(32))}
    assert (tokens, server.requests[STS]) == ({"session-0"}, 1)


def test_refusal_is_not_repeated_and_shows_no_token(
    server: CredentialsServer, token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    token.write_text("a.wrong.identity")
    with pytest.raises(CredentialsError) as caught:
        chain(server).retrieve()
    assert (caught.value.refused, caught.value.cause) == (True, "HTTP status 403")
    assert server.requests[STS] == 1
    assert caught.value.__suppress_context__
    assert "identity" not in f"{caught.value}{caplog.text}".replace(Source.WEB_IDENTITY, "")


@pytest.mark.usefixtures("token")
def test_unreachable_service_shows_no_token(
    server: CredentialsServer, monkeypatch: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:1")
    with pytest.raises(CredentialsError) as caught:
        chain(server).retrieve()
    assert not caught.value.refused
    assert server.identity not in f"{caught.value}{caplog.text}"


def test_missing_token_file_is_an_error_of_the_source(
    server: CredentialsServer, token: Path
) -> None:
    token.unlink()
    with pytest.raises(CredentialsError) as caught:
        chain(server).retrieve()
    assert caught.value.source is Source.WEB_IDENTITY
