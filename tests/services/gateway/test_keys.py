"""API keys: only hashes are kept, revocation takes seconds, the owner's key comes from a file."""

import argparse
import re
import stat
import time
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from services.chassis.errors import UnauthenticatedError, UnavailableError
from services.chassis.identity import Caller
from services.gateway.key_commands import add_key_commands, run_key_command
from services.gateway.key_store import METADATA, SqlKeyStore, open_key_store
from services.gateway.keys import Keys, StoredKey, mint, owner_secret, stored

ADA = Caller("acme", "ada")


class CountingStore:
    """Keys in a dictionary."""

    def __init__(self) -> None:
        self.keys: dict[bytes, StoredKey] = {}
        self.lookups = 0

    async def find(self, digest: bytes) -> StoredKey | None:
        self.lookups += 1
        return self.keys.get(digest)

    async def add(self, key: StoredKey) -> None:
        self.keys[key.digest] = key

    async def list_keys(self) -> list[StoredKey]:
        return list(self.keys.values())

    async def revoke(self, key_id: str, revoke_time: float) -> bool:
        raise NotImplementedError


def url(directory: Path) -> str:
    return f"sqlite+aiosqlite:///{directory}/keys.db"


async def run(directory: Path, *words: str) -> int:
    parser = argparse.ArgumentParser()
    add_key_commands(parser, url(directory))
    return await run_key_command(parser.parse_args(words))


async def test_a_key_is_found_by_its_hash_and_never_kept(tmp_path: Path) -> None:
    secret, key = mint(ADA)
    async with open_key_store(url(tmp_path)) as store:
        await store.add(key)
        assert await Keys(store, 0).authenticate(f"Bearer {secret}") == ADA
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
async def test_what_is_not_a_known_key_is_refused(tmp_path: Path, authorization: str) -> None:
    async with open_key_store(url(tmp_path)) as store:
        await store.add(mint(ADA)[1])
        with pytest.raises(UnauthenticatedError) as caught:
            await Keys(store, 3).authenticate(authorization)
    assert caught.value.field == "authorization"


async def test_a_known_key_is_looked_up_once_in_a_while_and_an_unknown_one_always() -> None:
    store = CountingStore()
    secret, key = mint(ADA)
    await store.add(key)
    keys = Keys(store, cache_seconds=60)
    for _ in range(3):
        assert await keys.authenticate(f"Bearer {secret}") == ADA
    assert store.lookups == 1
    for _ in range(2):
        with pytest.raises(UnauthenticatedError):
            await keys.authenticate("Bearer tw_" + "A" * 43)
    assert store.lookups == 3


async def test_a_revoked_key_stops_working(tmp_path: Path) -> None:
    secret, key = mint(ADA)
    async with open_key_store(url(tmp_path)) as store:
        await store.add(key)
        keys = Keys(store, cache_seconds=0)
        await keys.authenticate(f"Bearer {secret}")
        assert await store.revoke(key.key_id, time.time())
        with pytest.raises(UnauthenticatedError):
            await keys.authenticate(f"Bearer {secret}")
        assert not await store.revoke(key.key_id, time.time())


async def test_a_broken_database_lets_nobody_in(tmp_path: Path) -> None:
    async with open_key_store(url(tmp_path)) as store:
        async with store._engine.begin() as connection:
            await connection.run_sync(METADATA.drop_all)
        with pytest.raises(UnavailableError) as caught:
            await Keys(store, 3).authenticate("Bearer " + mint(ADA)[0])
    assert isinstance(caught.value.__cause__, OperationalError)


def test_the_owners_key_is_made_once_and_only_the_owner_can_read_it(tmp_path: Path) -> None:
    file = tmp_path / "state" / "owner.key"
    first = owner_secret(file)
    assert owner_secret(file) == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stored(first, ADA).digest == stored(first, ADA).digest
    assert [entry.name for entry in file.parent.iterdir()] == ["owner.key"]


async def test_keeping_the_owners_key_again_changes_nothing(tmp_path: Path) -> None:
    secret = owner_secret(tmp_path / "owner.key")
    async with open_key_store(url(tmp_path)) as store:
        for _ in range(2):
            await store.add(stored(secret, ADA))
        assert len(await store.list_keys()) == 1


async def test_the_commands_make_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await run(tmp_path, "create", "--user", "sim", "--tenant", "acme", "--count", "3") == 0
    secrets = capsys.readouterr().out.split()
    async with open_key_store(url(tmp_path)) as store:
        keys = Keys(store, 0)
        callers = [await keys.authenticate(f"Bearer {secret}") for secret in secrets]
        assert callers == [Caller("acme", f"sim-{number}") for number in (1, 2, 3)]
        assert await run(tmp_path, "list") == 0
        listed = capsys.readouterr().out
        assert not any(secret in listed for secret in secrets)
        key_id = next(line.split()[0] for line in listed.splitlines() if "acme/sim-2" in line)
        assert await run(tmp_path, "revoke", "--id", key_id) == 0
        assert await run(tmp_path, "revoke", "--id", key_id) == 1
        with pytest.raises(UnauthenticatedError):
            await keys.authenticate(f"Bearer {secrets[1]}")


@pytest.mark.parametrize("user", ["a/b", "", "x" * 65, "two words"])
async def test_names_that_could_be_confused_are_refused(tmp_path: Path, user: str) -> None:
    assert await run(tmp_path, "create", "--user", user) == 2
    async with open_key_store(url(tmp_path)) as store:
        assert isinstance(store, SqlKeyStore)
        assert await store.list_keys() == []
