"""API keys: hashed storage, expiry, rotation, revocation, and the owner's key file."""

import asyncio
import re
import stat
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from services.chassis.errors import UnauthenticatedError, UnavailableError
from services.chassis.identity import Caller
from services.gateway.identity.authentication import (
    MAX_WAITING_UNKNOWN,
    USE_RECORD_SECONDS,
    ApiKeys,
    Authenticator,
    StoredKey,
    digest_of,
    mint,
    owner_secret,
    stored_key,
)
from services.gateway.identity.credential import ALL_SCOPES, DEFAULT_SCOPES, Credential, Scope
from services.gateway.store.database import open_database
from services.gateway.store.keys import METADATA, SqlKeyStore
from tests.services.gateway.keys import ADA, CountingStore, reason_of, run_at, url


@asynccontextmanager
async def key_store(directory: Path) -> AsyncIterator[SqlKeyStore]:
    async with open_database(url(directory)) as engine:
        yield SqlKeyStore(engine)


async def run(directory: Path, *words: str) -> int:
    return await run_at(url(directory), *words)


async def test_key_is_found_by_hash_and_never_stored(tmp_path: Path) -> None:
    secret, key = mint(ADA)
    async with key_store(tmp_path) as store, ApiKeys(store, 0) as keys:
        await store.add(key)
        assert await keys.authenticate(secret) == Credential(ADA, DEFAULT_SCOPES)
    assert re.fullmatch(r"tw_[A-Za-z0-9_-]{43}", secret)
    assert secret.encode() not in (tmp_path / "keys.db").read_bytes()
    assert secret[3:].encode() not in (tmp_path / "keys.db").read_bytes()


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic abc",
        "Bearer tw_short",
        "Bearer tw_" + "A" * 43,
        "tw_" + "A" * 43,
        "Bearer ' OR 1=1 --",
    ],
)
async def test_unknown_keys_are_rejected(tmp_path: Path, authorization: str) -> None:
    async with key_store(tmp_path) as store:
        await store.add(mint(ADA)[1])
        with pytest.raises(UnauthenticatedError) as caught:
            await Authenticator(ApiKeys(store, 3), None).authenticate(authorization)
    assert caught.value.field == "authorization"


async def test_known_and_unknown_keys_are_cached() -> None:
    """Finding S-15: each call with an unknown key was a query."""
    secret, key = mint(ADA)
    store = CountingStore(key)
    keys = ApiKeys(store, cache_seconds=60)
    for _ in range(3):
        assert (await keys.authenticate(secret)).caller == ADA
    assert store.lookups == 1
    for _ in range(2):
        assert await reason_of(keys, "tw_" + "A" * 43) == "API_KEY_INVALID"
    assert store.lookups == 2


async def test_recent_digests_are_those_of_the_keys_last_used(tmp_path: Path) -> None:
    async with key_store(tmp_path) as store:
        old, new, used, revoked = (mint(ADA)[1] for _ in range(4))
        for created, key in ((10.0, old), (30.0, new), (5.0, used), (50.0, revoked)):
            await store.add(replace(key, create_time=created))
        await store.record_use(used.key_id, 40.0)
        await store.revoke(revoked.key_id, 60.0)
        await store.rotate(new.key_id, b"2" * 32, 60.0, 99.0)
        assert await store.recent_digests(9) == [used.digest, b"2" * 32, new.digest, old.digest]
        assert await store.recent_digests(1) == [used.digest]


class SlowStore(CountingStore):
    """Key store that answers queries for unknown keys only when `go` is set."""

    def __init__(self, *keys: StoredKey) -> None:
        super().__init__(*keys)
        self.go = asyncio.Event()
        self.running = self.most_running = 0

    async def find(self, digest: bytes) -> StoredKey | None:
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        if digest not in self.keys:
            await self.go.wait()
        self.running -= 1
        return await super().find(digest)


@pytest.mark.parametrize("restarted", [True, False])
async def test_unknown_keys_leave_queries_for_the_keys_in_use(restarted: bool) -> None:
    """Finding S-15: 120 invented keys a second occupied all connections of the database."""
    secret, key = mint(ADA)
    store = SlowStore(*([key] if restarted else []))
    # Without a cache, each call with the key in use is a query.
    async with ApiKeys(store, cache_seconds=0, unknown_lookups=2) as keys:
        if not restarted:
            store.keys[key.digest] = key
            await keys.authenticate(secret)
        strangers = [
            asyncio.create_task(reason_of(keys, f"tw_{number:043}"))
            for number in range(MAX_WAITING_UNKNOWN)
        ]
        try:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert store.running == 2
            async with asyncio.timeout(5):
                assert (await keys.authenticate(secret)).caller == ADA
            with pytest.raises(UnavailableError) as caught:
                await keys.authenticate("tw_" + "A" * 43)
        finally:
            store.go.set()
        assert (caught.value.reason, caught.value.limit) == ("TOO_MANY_UNKNOWN_KEYS", "200 at once")
        assert set(await asyncio.gather(*strangers)) == {"API_KEY_INVALID"}
        assert await reason_of(keys, "tw_" + "A" * 43) == "API_KEY_INVALID"
    assert store.most_running == 3


async def test_revoked_key_stops_working(tmp_path: Path) -> None:
    secret, key = mint(ADA)
    async with key_store(tmp_path) as store, ApiKeys(store, cache_seconds=0) as keys:
        await store.add(key)
        assert await reason_of(keys, secret) == ""
        assert await store.revoke(key.key_id, time.time())
        assert await reason_of(keys, secret) == "API_KEY_REVOKED"
        assert not await store.revoke(key.key_id, time.time())


async def test_cached_key_expires_on_time() -> None:
    secret, key = mint(ADA, expire_time=1_000.0)
    clock = iter((999.0, 999.0, 1_000.0))
    keys = ApiKeys(CountingStore(replace(key, last_use_time=990.0)), 60, lambda: next(clock))
    assert [await reason_of(keys, secret) for _ in range(2)] == ["", "API_KEY_EXPIRED"]


async def test_rotated_key_has_two_secrets_until_the_overlap_ends_or_revocation(
    tmp_path: Path,
) -> None:
    first, key = mint(ADA, ALL_SCOPES)
    second, third, now = mint(ADA)[0], mint(ADA)[0], time.time()
    async with key_store(tmp_path) as store, ApiKeys(store, cache_seconds=0) as keys:
        await store.add(key)
        assert await store.rotate(key.key_id, digest_of(second), now, now + 60)
        assert [await keys.authenticate(secret) for secret in (first, second)] == [
            Credential(ADA, ALL_SCOPES)
        ] * 2
        # A rotated owner key is known by its previous secret, and adding it again must not create a
        # second key.
        await store.add(stored_key(first, ADA))
        assert len(await store.list_keys()) == 1

        assert await store.rotate(key.key_id, digest_of(third), now, now - 1)
        reasons = [await reason_of(keys, secret) for secret in (first, second, third)]
        assert reasons == ["API_KEY_INVALID", "API_KEY_INVALID", ""]

        assert await store.rotate(key.key_id, digest_of(first), now, now + 60)
        await store.revoke(key.key_id, now)
        assert [await reason_of(keys, secret) for secret in (first, third)] == [
            "API_KEY_REVOKED"
        ] * 2
        assert not await store.rotate(key.key_id, digest_of(second), now, now + 60)


async def test_last_use_is_written_hourly_and_its_failure_is_ignored() -> None:
    secret, key = mint(ADA)
    store = CountingStore(key)

    async def use() -> None:
        async with ApiKeys(store, cache_seconds=0) as keys:
            assert await reason_of(keys, secret) == ""

    for _ in range(5):
        await use()
    assert store.noted == [key.key_id]
    store.keys[key.digest] = replace(key, last_use_time=time.time() - USE_RECORD_SECONDS - 1)
    store.away = True
    await use()
    store.away = False
    await use()
    assert store.noted == [key.key_id] * 2


async def test_broken_database_rejects_all_keys(tmp_path: Path) -> None:
    async with open_database(url(tmp_path)) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.drop_all)
        with pytest.raises(UnavailableError) as caught:
            await ApiKeys(SqlKeyStore(engine), 3).authenticate(mint(ADA)[0])
    assert isinstance(caught.value.__cause__, OperationalError)


def test_owner_key_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "state" / "owner.key"
    first = owner_secret(file)
    assert owner_secret(file) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stored_key(first, ADA).digest == stored_key(first, ADA).digest
    assert [entry.name for entry in file.parent.iterdir()] == ["owner.key"]


async def test_adding_the_owner_key_again_changes_nothing(tmp_path: Path) -> None:
    secret = owner_secret(tmp_path / "owner.key")
    async with key_store(tmp_path) as store:
        for _ in range(2):
            await store.add(stored_key(secret, ADA))
        assert [key.scopes for key in await store.list_keys()] == [ALL_SCOPES]
        assert len(await store.audit_records(0)) == 1


async def test_owner_key_of_an_earlier_version_gets_the_new_scopes(tmp_path: Path) -> None:
    secret = owner_secret(tmp_path / "owner.key")
    async with key_store(tmp_path) as store:
        await store.add(stored_key(secret, ADA, ALL_SCOPES - {Scope.REVIEW}))
        (earlier,) = await store.list_keys()
        await store.add(stored_key(secret, ADA), "gateway")
        assert await store.list_keys() == [replace(earlier, scopes=ALL_SCOPES)]
        records = await store.audit_records(0)
    assert [(found["act"], found["object"]) for found in records] == [
        ("key created", earlier.key_id),
        ("key scopes changed", earlier.key_id),
    ]


async def test_commands_create_list_rotate_and_revoke(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await run(tmp_path, "create", "--user", "sim", "--tenant", "acme", "--count", "3") == 0
    secrets = capsys.readouterr().out.split()
    async with key_store(tmp_path) as store, ApiKeys(store, 0) as keys:
        callers = [(await keys.authenticate(secret)).caller for secret in secrets]
        assert callers == [Caller("acme", f"sim-{number}") for number in (1, 2, 3)]
        key_id = await listed_id(tmp_path, capsys, "acme/sim-2", secrets)

        assert await run(tmp_path, "rotate", "--id", key_id, "--overlap-hours", "0") == 0
        said = capsys.readouterr()
        assert re.search(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n$", said.err), (
            "until when the secret before works"
        )
        assert await reason_of(keys, secrets[1]) == "API_KEY_INVALID"
        assert await reason_of(keys, said.out.strip()) == ""

        assert await run(tmp_path, "revoke", "--id", key_id) == 0
        assert [
            await run(tmp_path, command, "--id", key_id) for command in ("revoke", "rotate")
        ] == [1, 1]
        assert await reason_of(keys, said.out.strip()) == "API_KEY_REVOKED"


async def test_list_shows_the_overlap_of_a_rotated_key_until_it_is_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await run(tmp_path, "create", "--user", "ada")
    key_id = await listed_id(tmp_path, capsys, "ada", capsys.readouterr().out.split())
    await run(tmp_path, "rotate", "--id", key_id)
    await run(tmp_path, "list")
    assert "previous secret" in capsys.readouterr().out
    await run(tmp_path, "revoke", "--id", key_id)
    await run(tmp_path, "list")
    listed = capsys.readouterr().out
    assert "revoked" in listed and "previous secret" not in listed


@pytest.mark.parametrize("words", [("list",), ("revoke", "--id", "x"), ("rotate", "--id", "x")])
async def test_command_on_existing_keys_creates_no_database(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert await run(tmp_path, *words) == 2
    assert str(tmp_path / "keys.db") in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


async def test_new_database_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    assert await run(tmp_path / "state", "create", "--user", "ada") == 0
    assert (tmp_path / "state" / "keys.db").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


async def listed_id(directory: Path, capsys: Any, user: str, secrets: list[str]) -> str:
    assert await run(directory, "list") == 0
    listed = capsys.readouterr().out
    assert not any(secret in listed for secret in secrets)
    line = next(line for line in listed.splitlines() if user in line)
    assert "chat feedback account" in line
    return str(line.split()[0])


@pytest.mark.parametrize(
    ("words", "scopes"),
    [
        ((), DEFAULT_SCOPES),
        (("--scopes", "all"), ALL_SCOPES),
        (("--scopes", "operate"), {Scope.OPERATE}),
        (("--scopes", "feedback,chat"), {Scope.CHAT, Scope.FEEDBACK}),
        (("--scopes", "review"), {Scope.REVIEW}),
    ],
)
async def test_key_is_created_with_the_requested_scopes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], scopes: set[Scope]
) -> None:
    assert await run(tmp_path, "create", "--user", "ada", *words) == 0
    async with key_store(tmp_path) as store, ApiKeys(store, 0) as keys:
        assert (await keys.authenticate(capsys.readouterr().out.strip())).scopes == scopes


@pytest.mark.parametrize(
    "words",
    [
        ("--user", "a/b"),
        ("--user", ""),
        ("--user", "x" * 65),
        ("--user", "two words"),
        ("--user", "ada", "--tenant", "a/b"),
        ("--user", "ada", "--scopes", "chat,fly"),
        ("--user", "ada", "--scopes", ""),
        ("--user", "ada", "--days", "0"),
        ("--user", "ada", "--days", "nan"),
        ("--user", "ada", "--count", "0"),
    ],
)
async def test_ambiguous_names_are_rejected(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert await run(tmp_path, "create", *words) == 2
    async with key_store(tmp_path) as store:
        assert await store.list_keys() == []


async def test_scope_of_a_later_version_grants_nothing(tmp_path: Path) -> None:
    secret, key = mint(ADA, ALL_SCOPES)
    async with open_database(url(tmp_path)) as engine:
        await SqlKeyStore(engine).add(key)
        async with engine.begin() as connection:
            await connection.exec_driver_sql("UPDATE api_keys SET scopes = 'chat fly'")
        async with ApiKeys(SqlKeyStore(engine), 0) as keys:
            assert (await keys.authenticate(secret)).scopes == {Scope.CHAT}


async def test_concurrent_calls_with_one_key_share_one_query() -> None:
    secret, key = mint(ADA)
    store = CountingStore(key)
    async with ApiKeys(store, cache_seconds=0) as keys:
        leaving = asyncio.create_task(keys.authenticate(secret))
        staying = [asyncio.create_task(keys.authenticate(secret)) for _ in range(5)]
        await asyncio.sleep(0)
        leaving.cancel()
        assert [credential.caller for credential in await asyncio.gather(*staying)] == [ADA] * 5
        assert store.lookups == 1
        await keys.authenticate(secret)
    assert store.lookups == 2
