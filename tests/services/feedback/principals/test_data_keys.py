"""Data keys: created once under concurrency, wrapped, and never cached."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine, event, select, update

from services.chassis.errors import UnavailableError
from services.feedback.__main__ import wiring
from services.feedback.principals.data_keys import DataKeys
from services.feedback.principals.erasures import Erasures
from services.feedback.principals.sealing import DataKey, MasterKey, MasterKeyError
from services.feedback.settings import FeedbackSettings
from services.feedback.store import tables
from services.feedback.store.database import LedgerUnavailableError, connect, open_database
from tests.services.feedback.samples import KEY, MASTER
from tests.support.errors import refused

ADA, BOB = "a" * 64, "b" * 64
REPLICAS, ROUNDS = 4, 10


def keys_on(engine: Engine, digits: str = MASTER) -> DataKeys:
    return DataKeys(engine, MasterKey(digits))


def test_a_key_is_created_once_for_all_processes(engine: Engine) -> None:
    first = keys_on(engine).get_or_create({ADA: "acme", BOB: "acme"})
    assert (
        len({key.key for key in first.values()}) == len({key.key_id for key in first.values()}) == 2
    )
    assert {(len(key.key), len(key.key_id)) for key in first.values()} == {(32, 16)}
    assert keys_on(engine).get_or_create({ADA: "acme", BOB: "acme"}) == first
    assert keys_on(engine).existing([ADA, "c" * 64]) == {ADA: first[ADA]}


def test_more_principals_than_one_query_names_have_their_keys(engine: Engine) -> None:
    tenants = {f"{number:064x}": "acme" for number in range(501)}
    keys = keys_on(engine)
    assert keys.get_or_create(tenants) == keys.existing(tenants)
    assert len({key.key_id for key in keys.existing(tenants).values()}) == 501


def test_existing_keys_of_a_group_need_one_statement(engine: Engine) -> None:
    keys = keys_on(engine)
    keys.get_or_create({ADA: "acme", BOB: "acme"})
    said: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
    keys.get_or_create({ADA: "acme", BOB: "acme"})
    assert [statement for statement in said if "data_keys" in statement] == said[-1:]


def test_an_erased_principal_gets_another_key_everywhere_at_once(engine: Engine) -> None:
    here, there = keys_on(engine), keys_on(engine)
    before = here.get_or_create({ADA: "acme"})[ADA]
    Erasures(engine).erase(ADA, "acme")
    assert here.existing([ADA]) == there.existing([ADA]) == {}
    after = there.get_or_create({ADA: "acme"})[ADA]
    assert after.key_id != before.key_id
    assert after.key != before.key
    assert here.get_or_create({ADA: "acme"}) == {ADA: after}


def test_replicas_creating_the_first_key_concurrently_get_one_key(postgres_url: str) -> None:
    engines = [connect(postgres_url) for _ in range(REPLICAS)]
    start = threading.Barrier(REPLICAS)

    def make(engine: Engine, number: int) -> dict[str, DataKey]:
        names = [f"{number:032x}{other:032x}" for other in range(5)]
        start.wait(10)
        return keys_on(engine).get_or_create(dict.fromkeys(names, "acme"))

    with ThreadPoolExecutor(REPLICAS) as pool:
        for number in range(ROUNDS):
            first, *others = pool.map(make, engines, [number] * REPLICAS)
            assert all(other == first for other in others)
    with engines[0].begin() as connection:
        assert len(connection.execute(select(tables.data_keys)).all()) == 5 * ROUNDS
    for engine in engines:
        engine.dispose()


def test_keys_created_during_erasures_are_never_missing(postgres_url: str) -> None:
    engines = [connect(postgres_url) for _ in range(2)]

    def make() -> int:
        keys = keys_on(engines[0])
        return sum(len(keys.get_or_create({ADA: "acme", BOB: "acme"})) for _ in range(50))

    def erase() -> set[int]:
        erasures = Erasures(engines[1])
        return {
            erasures.erase(principal, "acme")[0].number
            for _ in range(25)
            for principal in (ADA, BOB)
        }

    with ThreadPoolExecutor(2) as pool:
        made, erased = pool.submit(make), pool.submit(erase)
        assert made.result() == 100
        assert erased.result() == set(range(1, max(erased.result()) + 1))
    for engine in engines:
        engine.dispose()


def test_the_database_holds_no_usable_key_without_the_master_key(engine: Engine) -> None:
    key = keys_on(engine).get_or_create({ADA: "acme"})[ADA]
    with engine.begin() as connection:
        wrapped = bytes(connection.execute(select(tables.data_keys.c.wrapped_key)).scalar_one())
    assert key.key not in wrapped
    with pytest.raises(MasterKeyError):
        keys_on(engine, "00" * 32).check()
    with pytest.raises(UnavailableError) as caught:
        keys_on(engine, "00" * 32).get_or_create({ADA: "acme"})
    assert caught.value.reason == "FEEDBACK_MASTER_KEY"
    assert key.key.hex() not in str(caught.value)


@pytest.mark.parametrize("moved", [{"principal": BOB}, {"tenant": "other"}])
def test_a_wrapped_key_is_bound_to_principal_and_tenant(
    engine: Engine, moved: dict[str, str]
) -> None:
    keys = keys_on(engine)
    keys.get_or_create({ADA: "acme"})
    with engine.begin() as connection:
        connection.execute(update(tables.data_keys).values(**moved))
    with pytest.raises(UnavailableError):
        keys.existing([ADA, BOB])


def test_without_a_database_there_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnavailableError):
        keys_on(connect(f"sqlite:///{tmp_path}/empty.db")).get_or_create({ADA: "acme"})


async def test_a_service_with_another_master_key_does_not_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    engine = open_database(url)
    keys_on(engine, "00" * 32).get_or_create({ADA: "acme"})
    engine.dispose()
    settings = FeedbackSettings(
        principal_key=KEY,
        master_key=MASTER,
        database_url=url,
        spool_directory=tmp_path / "spool",
        object_directory=tmp_path / "objects",
    )
    with refused(MasterKeyError, field="master_key", reason="MISMATCH"):
        async with wiring(settings):
            pass


@pytest.mark.parametrize("digits", ["", "5e" * 31, "5e" * 33, "xy" * 32, "5e" * 32 + "\n"])
def test_a_malformed_master_key_is_rejected_and_hidden(digits: str) -> None:
    with pytest.raises(ValidationError) as caught:
        FeedbackSettings(principal_key=KEY, master_key=digits)
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == ((), "malformed")
    assert "master_key" in error["msg"]
    assert not digits or digits not in str(caught.value)


def test_no_error_of_the_settings_quotes_a_key() -> None:
    with pytest.raises(ValidationError) as caught:
        FeedbackSettings(
            master_key="ab" * 32, principal_key="0123456789abcdef", kafka_bootstrap="a:1"
        )
    (error,) = caught.value.errors()
    assert (error["loc"], error["type"]) == ((), "conflict")
    assert "kafka_bootstrap" in error["msg"]
    assert "abab" not in str(caught.value)
    assert "0123" not in str(caught.value)
