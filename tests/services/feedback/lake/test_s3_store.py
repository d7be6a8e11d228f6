"""S3 store: retries, time limits, and the setting named by an error."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from infra.simulate.faults.http import HttpFault, HttpProxy, Kind
from infra.simulate.faults.proxy import Chance
from infra.simulate.faults.tcp import Fault, TcpFaults, TcpProxy
from services.feedback.lake.object_store import (
    ObjectMissingError,
    ObjectRefusedError,
    ObjectStoreError,
)
from services.feedback.lake.s3_store import MAX_TRIES, S3Store
from tests.s3_server import S3Server, serving
from tests.services.feedback.s3_stores import place, store_at
from tests.support.credentials_server import CredentialsServer, web_identity
from tests.support.errors import refused

BODY = bytes(range(256)) * 1_000


@pytest.fixture
def server() -> S3Server:
    server = S3Server()
    server.buckets["thumbs"] = {}
    return server


@pytest.fixture
def port(server: S3Server) -> Iterator[int]:
    with serving(server) as port:
        yield port


@pytest.fixture
def store(port: int) -> S3Store:
    return store_at(port)


@pytest.fixture
def proxy(port: int) -> Iterator[HttpProxy]:
    with HttpProxy(port) as proxy:
        yield proxy


def test_a_listing_covers_all_pages(store: S3Store) -> None:
    keys = [f"feedback/v1/{number}" for number in range(7)]
    for key in [*keys, "turns/v1/0"]:
        store.put(key, b"")
    assert [found.key for found in store.list("feedback/")] == keys
    assert {found.modified_us for found in store.list("")} == {1_795_597_200_000_000}


@pytest.mark.parametrize("code", ["SlowDown", "InternalError", "TooManyRequests"])
def test_a_briefly_busy_store_is_retried(server: S3Server, store: S3Store, code: str) -> None:
    server.refusals = [code] * (MAX_TRIES - 1)
    store.put("a", b"1")
    assert server.requests["PUT"] == MAX_TRIES
    assert store.get("a") == b"1"


def test_retries_of_a_busy_store_end_soon(server: S3Server, store: S3Store) -> None:
    server.refusals = ["SlowDown"] * 10
    with refused(ObjectStoreError, field="a", reason="OVERLOADED") as caught:
        store.put("a", b"1")
    assert "SlowDown" in caught.value.text
    assert not isinstance(caught.value, ObjectRefusedError)
    assert server.requests["PUT"] == MAX_TRIES


def test_retry_after_is_capped(server: S3Server, store: S3Store) -> None:
    server.refusals, server.headers = ["SlowDown"], {"Retry-After": "3600"}
    began = time.monotonic()
    store.put("a", b"1")
    assert 2.0 <= time.monotonic() - began < 60
    assert server.requests["PUT"] == 2


def test_a_lost_response_leads_to_an_equal_second_put(server: S3Server, proxy: HttpProxy) -> None:
    proxy.faults = (HttpFault(Kind.ANSWER_LOST, Chance(times=1)),)
    store_at(proxy.port).put("a", BODY)
    assert (server.requests["PUT"], server.buckets["thumbs"]) == (2, {"a": BODY})
    assert proxy.counts[Kind.ANSWER_LOST] == 1


def test_a_truncated_object_is_read_again(server: S3Server, proxy: HttpProxy) -> None:
    server.buckets["thumbs"]["a"] = BODY
    store = store_at(proxy.port)
    proxy.faults = (HttpFault(Kind.ANSWER_RESET, Chance(times=MAX_TRIES - 1), body_bytes=100_000),)
    assert store.get("a") == BODY
    proxy.faults = (HttpFault(Kind.ANSWER_RESET, body_bytes=100_000),)
    with pytest.raises(ObjectStoreError):
        store.get("a")
    assert proxy.counts[Kind.ANSWER_RESET] == 2 * MAX_TRIES - 1


@pytest.mark.parametrize("operation", ["put", "get", "delete", "list"])
def test_a_hanging_request_is_not_retried(proxy: HttpProxy, operation: str) -> None:
    store = store_at(proxy.port, request_seconds=0.3)
    proxy.faults = (HttpFault(Kind.HANG),)
    calls = {
        "put": lambda: store.put("a", BODY),
        "get": lambda: store.get("a"),
        "delete": lambda: store.delete("a"),
        "list": lambda: list(store.list("")),
    }
    with refused(ObjectStoreError, field="s3_endpoint", reason="UNREACHABLE") as caught:
        calls[operation]()
    assert "ReadTimeoutError" in caught.value.text
    assert proxy.counts[Kind.HANG] == 1


def test_a_slow_download_times_out(server: S3Server, port: int) -> None:
    server.buckets["thumbs"]["a"] = BODY
    with TcpProxy(port) as proxy:
        proxy.faults = TcpFaults(bytes_per_second=50_000)
        with refused(ObjectStoreError, field="s3_endpoint", reason="UNREACHABLE") as caught:
            store_at(proxy.port, request_seconds=0.5).get("a")
        assert "TimeoutError" in caught.value.text
        assert proxy.counts[Fault.PACED] > 3


def test_a_slow_upload_times_out(server: S3Server, port: int) -> None:
    with TcpProxy(port) as proxy:
        proxy.faults = TcpFaults(bytes_per_second=100_000)
        with pytest.raises(ObjectStoreError):
            # More bytes than the socket buffers hold.
            store_at(proxy.port, request_seconds=0.5).put("a", bytes(32 << 20))
        assert proxy.counts[Fault.PACED]
    assert server.buckets["thumbs"] == {}


def test_an_unavailable_store_is_no_rejection(port: int) -> None:
    with HttpProxy(1) as away:
        for gone in (store_at(1), store_at(away.port)):
            with refused(ObjectStoreError, field="s3_endpoint", reason="UNREACHABLE") as caught:
                gone.check()
            assert "127.0.0.1:" in caught.value.text
            assert not isinstance(caught.value, ObjectRefusedError)


def test_the_self_test_leaves_no_object(server: S3Server, store: S3Store) -> None:
    store.check()
    assert server.buckets["thumbs"] == {}
    assert server.requests == {"GET": 3, "PUT": 1, "DELETE": 1}


@pytest.mark.parametrize(
    ("code", "setting"),
    [
        ("InvalidAccessKeyId", "s3_access_key"),
        ("AccessDenied", "s3_access_key"),
        ("SignatureDoesNotMatch", "s3_secret_key"),
        ("PermanentRedirect", "s3_region"),
        ("RequestTimeTooSkewed", "s3_endpoint"),
    ],
)
def test_a_rejection_names_the_setting_and_is_not_retried(
    server: S3Server, store: S3Store, code: str, setting: str
) -> None:
    server.refusals = [code]
    with refused(ObjectRefusedError, field=setting, reason="REFUSED") as caught:
        store.check()
    assert code in caught.value.text
    assert server.requests.total() == 1


def test_a_missing_bucket_is_reported_and_not_created(server: S3Server, port: int) -> None:
    with refused(ObjectRefusedError, field="s3_bucket", reason="REFUSED") as caught:
        store_at(port, bucket="nowhere").check()
    assert {"NoSuchBucket", "nowhere"} <= set(re.findall(r"\w+", caught.value.text))
    assert set(server.buckets) == {"thumbs"}
    with pytest.raises(ObjectRefusedError):
        store_at(port, bucket="nowhere").get("a")


def test_a_store_with_wrong_reads_or_deletes_is_rejected(server: S3Server, store: S3Store) -> None:
    server.keeps_deleted = True
    with refused(ObjectRefusedError, field="s3_endpoint", reason="EXISTS"):
        store.check()
    server.garbles = True
    with refused(ObjectRefusedError, field="s3_endpoint", reason="MISMATCH"):
        store.check()


def test_a_bucket_is_created_once(server: S3Server, port: int) -> None:
    store = store_at(port, bucket="new")
    assert store.make_bucket()
    store.put("a", b"1")
    assert not store.make_bucket()
    assert server.buckets["new"] == {"a": b"1"}


def test_no_text_contains_the_secret(store: S3Store) -> None:
    assert "a secret of the tests" not in repr(place(1))


def test_connections_are_reused(server: S3Server, store: S3Store) -> None:
    for number in range(5):
        store.put(f"{number}", BODY)
        assert store.get(f"{number}") == BODY
    with pytest.raises(ObjectMissingError):
        store.get("9")
    assert server.connections == 1


def test_connections_of_several_threads_are_reused(server: S3Server, store: S3Store) -> None:
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: store.put(f"{number}", BODY), range(40)))
    assert len(server.buckets["thumbs"]) == 40
    assert server.connections <= 4


@pytest.fixture
def issuer(server: S3Server, tmp_path: Path) -> Iterator[CredentialsServer]:
    """Issuer of the only credentials that the store accepts."""
    issuer = CredentialsServer()
    server.authorize = issuer.authorize
    with web_identity(issuer, tmp_path):
        yield issuer


def without_keys(port: int) -> S3Store:
    return S3Store(replace(place(port), access_key="", secret_key=""))


def test_the_store_is_used_with_temporary_credentials(
    server: S3Server, port: int, issuer: CredentialsServer
) -> None:
    store = without_keys(port)
    store.check()
    store.put("a", BODY)
    issuer.lifetime_seconds = 1
    assert without_keys(port).get("a") == BODY
    assert len(issuer.issued) == 2
    with refused(ObjectRefusedError, field="s3_access_key"):
        store_at(port).get("a")


def test_credentials_that_expire_meanwhile_are_replaced(
    port: int, issuer: CredentialsServer
) -> None:
    issuer.lifetime_seconds = 0.4
    store = without_keys(port)
    for number in range(30):
        store.put(f"{number}", b"x")
        time.sleep(0.05)
    assert len(issuer.issued) > 3


def test_a_refused_role_names_the_setting(port: int, issuer: CredentialsServer) -> None:
    issuer.identity = "another.web.identity"
    with refused(ObjectRefusedError, field="s3_credentials", reason="REFUSED"):
        without_keys(port).check()


def test_an_issuer_without_an_answer_is_no_wrong_setting(
    port: int, issuer: CredentialsServer
) -> None:
    issuer.statuses = [503] * 10
    with refused(ObjectStoreError, field="s3_credentials", reason="UNREACHABLE"):
        without_keys(port).put("a", b"")
