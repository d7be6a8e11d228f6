"""Audit log of the generator: canaries, promotions and orders of operators, refused ones too."""

import json
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from services.chassis.audit.acts import Act
from services.chassis.errors import FailedPreconditionError, UnavailableError
from services.generator.__main__ import rollout_store
from services.generator.rollout.current_rollout import STORE_UNAVAILABLE, CurrentRollout
from services.generator.rollout.rollout import Deployment, Rollout
from services.generator.store.database import open_rollout_row
from services.generator.store.store import RolloutFile
from tests.services.generator.canaries import error_of
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    generator_service,
    generator_settings,
    model_directory,
    operate,
    until_ready,
)
from tests.support.errors import refused

V1 = Rollout(stable=Deployment("v1", "/models/v1"))
ACT = Act("canary promoted", "training", "v2")


@pytest.fixture(params=["file", "postgres"])
def changes(request: pytest.FixtureRequest) -> dict[str, str]:
    """Return the settings of a store."""
    is_file = request.param == "file"
    return {} if is_file else {"database_url": request.getfixturevalue("database")}


async def test_changes_and_refusals_are_recorded_once(
    tmp_path: Path, changes: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = FakePredictor()
    async with (
        predictor_server(predictor) as port,
        generator_service(tmp_path, port, **changes) as stubs,
    ):
        settings = generator_settings(tmp_path, port, **changes)
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        await stubs.promote("v2")
        await stubs.promote("v2")
        await stubs.start("v3", model_directory(tmp_path, "v3"))
        await stubs.roll_back("v3")
        await stubs.roll_back("v3")
        assert await operate(settings, "halt", "--reason", "odd answers", "--by", "ada") == 0
        assert (await error_of(stubs.start("v3", tmp_path / "models" / "v3"))).reason
        assert await operate(settings, "resume", "--by", "bob") == 0
        capsys.readouterr()
        assert await operate(settings, "audit-log") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()][-9:]
    assert [(each["actor"], each["act"], each["object"], each["outcome"]) for each in found] == [
        ("unsigned", "canary requested", "v2", "done"),
        ("unsigned", "canary started", "v2", "done"),
        ("unsigned", "canary promoted", "v2", "done"),
        ("unsigned", "canary requested", "v3", "done"),
        ("unsigned", "canary started", "v3", "done"),
        ("unsigned", "canary rolled back", "v3", "done"),
        ("operator/ada", "rollout halted", "rollout", "done"),
        ("unsigned", "canary requested", "v3", "refused: ROLLOUT_HALTED"),
        ("operator/bob", "rollout resumed", "rollout", "done"),
    ]
    assert found[6]["detail"] == "odd answers"
    assert all(each["request_id"] for each in found[:6])


async def test_refused_restore_and_repeated_orders_are_recorded(
    tmp_path: Path, changes: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = generator_settings(tmp_path, 1, **changes)
    async with rollout_store(settings) as store:
        stored = await store.load()
        assert await store.replace(V1, stored.serial)
    restore = ("restore", "--by", "ada", "--reason", "bad answers", "--version", "nope")
    assert await operate(settings, *restore) == 2
    assert "--version" in capsys.readouterr().err
    assert await operate(settings, *restore, "--directory", str(tmp_path)) == 2
    assert "--directory" in capsys.readouterr().err
    for reason in ("odd answers", "another reason"):
        assert await operate(settings, "halt", "--by", "ada", "--reason", reason) == 0
    assert "already by ada: odd answers" in capsys.readouterr().err
    for _ in range(2):
        assert await operate(settings, "resume", "--by", "bob") == 0
    capsys.readouterr()
    assert await operate(settings, "audit-log") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()][-6:]
    assert [(each["act"], each["outcome"], each["detail"]) for each in found] == [
        ("rollout restored", "refused: INVALID_ARGUMENT", "bad answers"),
        ("rollout restored", "refused: INVALID_ARGUMENT", "bad answers"),
        ("rollout halted", "done", "odd answers"),
        ("rollout halted", "no change", "another reason"),
        ("rollout resumed", "done", ""),
        ("rollout resumed", "no change", ""),
    ]


async def test_lost_race_leaves_no_record(
    tmp_path: Path, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    file = RolloutFile(tmp_path / "rollout.json")
    async with open_rollout_row(database, 5) as row:
        before = len(await row.audit_records(0))
        for store in (file, row):
            assert await store.replace(V1, 0, ACT)
            assert not await store.replace(V1, 0, ACT)
        assert len(await row.audit_records(0)) == before + 1
    assert len(await file.audit_records(0)) == 1
    assert caplog.messages.count("administrative act") == 2


async def test_rollout_is_not_replaced_if_the_act_cannot_be_recorded(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path / "rollout.json")
    assert await file.replace(V1, 0)
    (tmp_path / "audit.jsonl").mkdir()
    with refused(UnavailableError, reason=STORE_UNAVAILABLE):
        await file.replace(V1.retire(frozenset({"v0"})), 1, ACT)
    assert (await RolloutFile(tmp_path / "rollout.json").load()).rollout == V1


async def test_refusal_that_cannot_be_recorded_stays_a_refusal(tmp_path: Path) -> None:
    file = RolloutFile(tmp_path / "rollout.json")
    assert await file.replace(V1, 0)
    (tmp_path / "audit.jsonl").mkdir()
    current = CurrentRollout(file, await file.load(), lambda: 7)
    with refused(FailedPreconditionError, reason="NOT_THE_CANDIDATE"):
        await current.change(lambda found: found.promote("v2", "", 7), ACT)


async def test_refused_restore_that_cannot_be_recorded_names_its_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = generator_settings(tmp_path, 1)
    assert await RolloutFile(settings.rollout_file).replace(V1, 0)
    settings.rollout_file.with_name("audit.jsonl").mkdir()
    restore = ("restore", "--reason", "bad answers", "--version", "v0", "--directory")
    assert await operate(settings, *restore, str(tmp_path)) == 2
    assert "--directory" in capsys.readouterr().err


@pytest.mark.parametrize("change", ["UPDATE generator_audit SET actor = ''", "DELETE FROM {}"])
async def test_postgres_refuses_to_change_records(database: str, change: str) -> None:
    async with open_rollout_row(database, 5) as row:
        await row.append(ACT)
        engine = create_async_engine(database)
        with pytest.raises(DBAPIError):
            async with engine.begin() as connection:
                await connection.execute(text(change.format("generator_audit")))
        await engine.dispose()
        assert (await row.audit_records(0))[-1]["actor"] == "training"
