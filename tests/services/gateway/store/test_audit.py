"""Audit log of the gateway: a record for each change of a key, in the same transaction."""

import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from services.chassis.errors import UnavailableError
from services.gateway.__main__ import main
from services.gateway.identity.authentication import digest_of, mint, new_secret
from services.gateway.store.database import open_database
from services.gateway.store.keys import SqlKeyStore
from tests.services.gateway.gateway_under_test import run_gateway
from tests.services.gateway.keys import ADA, run_at, url


@pytest_asyncio.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    async with open_database(url(tmp_path)) as opened:
        yield opened


async def records(folder: Path) -> list[Mapping[str, Any]]:
    async with open_database(url(folder)) as engine:
        return await SqlKeyStore(engine).audit_records(0)


async def test_every_key_command_leaves_a_record_without_a_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = url(tmp_path)
    assert await run_at(address, "create", "--user", "ada", "--by", "bob") == 0
    secret = capsys.readouterr().out.strip()
    (created,) = await records(tmp_path)
    key = created["object"]
    assert await run_at(address, "rotate", "--id", key, "--by", "bob") == 0
    rotated = capsys.readouterr().out.strip()
    assert await run_at(address, "revoke", "--id", key, "--by", "eve") == 0
    assert await run_at(address, "revoke", "--id", key, "--by", "eve") == 1
    assert await run_at(address, "list") == 0
    found = await records(tmp_path)
    assert [(each["actor"], each["act"], each["object"], each["outcome"]) for each in found] == [
        ("operator/bob", "key created", key, "done"),
        ("operator/bob", "key rotated", key, "done"),
        ("operator/eve", "key revoked", key, "done"),
        ("operator/eve", "key revoked", key, "no working key"),
    ]
    assert found[0]["detail"].startswith("default/ada ")
    assert abs(found[0]["time_us"] / 1e6 - time.time()) < 3_600
    for hidden in (secret, rotated, digest_of(secret).hex()):
        assert hidden not in str(found)


def test_command_prints_the_records_since_an_age(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = url(tmp_path)
    create = ["gateway", "keys", "--database", address, "create", "--user", "ada"]
    monkeypatch.setattr("sys.argv", create)
    assert main() == 0
    read = ["gateway", "audit-log", "--since", "1h", "--database", address]
    monkeypatch.setattr("sys.argv", read)
    assert main() == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (printed["service"], printed["act"]) == ("gateway", "key created")
    monkeypatch.setattr("sys.argv", ["gateway", "audit-log", "--since", "soon"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "--since" in capsys.readouterr().err


async def test_change_without_its_record_does_not_take_effect(
    tmp_path: Path, engine: AsyncEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    store = SqlKeyStore(engine)
    _, key = mint(ADA)
    await store.add(key)
    async with engine.begin() as connection:
        await connection.execute(text("ALTER TABLE gateway_audit RENAME TO elsewhere"))
    with pytest.raises(UnavailableError):
        await store.revoke(key.key_id, time.time())
    found = await store.find(key.digest)
    assert found is not None and found.revoke_time is None
    assert caplog.messages.count("administrative act") == 1, "the key was added, not revoked"


@pytest.mark.parametrize(
    "statement", ["UPDATE gateway_audit SET actor = 'nobody'", "DELETE FROM gateway_audit"]
)
async def test_database_refuses_to_change_records(engine: AsyncEngine, statement: str) -> None:
    store = SqlKeyStore(engine)
    await store.add(mint(ADA)[1])
    before = await store.audit_records(0)
    with pytest.raises(DBAPIError):
        async with engine.begin() as connection:
            await connection.execute(text(statement))
    assert await store.audit_records(0) == before


async def test_configuration_is_recorded_when_it_changes(tmp_path: Path) -> None:
    async def recorded(**changes: Any) -> list[Mapping[str, Any]]:
        async with run_gateway(tmp_path, **changes) as gateway:
            found = await gateway.store.audit_records(0)
        return [each for each in found if each["act"] == "configuration read"]

    first = await recorded()
    assert sorted(each["object"] for each in first) == ["oidc issuers", "quotas"]
    assert await recorded() == first
    *_, last = await recorded(user_tokens_per_day=7)
    assert (last["object"], json.loads(last["detail"])["user_tokens_per_day"]) == ("quotas", 7)


async def test_rotation_of_a_revoked_key_is_recorded_as_refused(engine: AsyncEngine) -> None:
    store = SqlKeyStore(engine)
    _, key = mint(ADA)
    await store.add(key)
    await store.revoke(key.key_id, time.time())
    assert not await store.rotate(key.key_id, digest_of(new_secret()), time.time(), time.time())
    assert (await store.audit_records(0))[-1]["outcome"] == "no working key"
