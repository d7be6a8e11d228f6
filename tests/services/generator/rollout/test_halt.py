"""The halt of an operator ends the canary, refuses others, and outlives every process."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from services.chassis.errors import FailedPreconditionError
from services.contracts.chat import Arm
from services.generator.metrics import ROLLOUT_HALTED
from services.generator.rollout.current_rollout import UnusableStoreError
from services.generator.rollout.rollout import (
    HALTED,
    Candidate,
    ChangeKind,
    Deployment,
    Halt,
    Rollout,
)
from services.generator.settings import GeneratorSettings
from tests.services.generator.canaries import CANDIDATES_USER, error_of
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.replicas import replicas
from tests.services.generator.service import (
    Stubs,
    generator_service,
    generator_settings,
    model_directory,
    operate,
    until_ready,
)
from tests.support.errors import refused

CANDIDATE = Candidate("v2", "/models/v2", 0.5, 100)
ORDER = Halt(7, "ada", "odd answers")


def shown(output: str) -> list[Any]:
    """Return the JSON objects that the commands printed."""
    found, decoder = [], json.JSONDecoder()
    while output.strip():
        value, end = decoder.raw_decode(output := output.lstrip())
        found.append(value)
        output = output[end:]
    return found


async def answering(stubs: Stubs) -> str:
    """Return the version that answers, or "" if the model server has none ready."""
    try:
        return await stubs.version_for(CANDIDATES_USER)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        return ""


def halted_metric() -> float | None:
    return REGISTRY.get_sample_value("thumbwheel_rollout_halted")


def test_halt_removes_the_candidate_and_refuses_every_change_but_resume() -> None:
    proposed = Rollout(stable=Deployment("v1", "/models/v1")).propose(CANDIDATE)
    halted = proposed.start("v2", 100, 0).halted(ORDER)
    assert (halted.candidate, halted.retired, halted.halt) == (None, ("v2",), ORDER)
    assert (halted.history[0].kind, halted.history[0].reason) == (
        ChangeKind.ROLLED_BACK,
        "halted: odd answers",
    )
    assignment = halted.assign(CANDIDATES_USER, 8, candidate_ready=True)
    assert assignment is not None and assignment.arm is Arm.STABLE
    for change in (
        lambda: halted.propose(CANDIDATE),
        lambda: halted.start("v2", 100, 0),
        lambda: halted.renew("v2", 100),
        lambda: halted.promote("v2", "", 9),
    ):
        with refused(FailedPreconditionError, reason=HALTED):
            change()
    assert halted.roll_back("v2", "again", 9) == halted
    assert halted.promote("v1", "", 9) == halted
    assert halted.halted(Halt(9, "bob", "another")) == halted
    assert halted.resumed().propose(CANDIDATE).candidate == CANDIDATE


async def test_halt_returns_the_users_at_once_and_survives_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = FakePredictor()
    async with predictor_server(predictor) as port:
        settings = generator_settings(tmp_path, port)
        candidate = model_directory(tmp_path, "v2")
        async with generator_service(tmp_path, port) as stubs:
            await until_ready(stubs, "v1")
            await stubs.start("v2", candidate)
            assert await stubs.version_for(CANDIDATES_USER) == "v2"
            halt = ("halt", "--reason", "odd answers", "--by", "ada", "--json")
            assert await operate(settings, *halt) == 0
            async with asyncio.timeout(30):
                while await stubs.version_for(CANDIDATES_USER) != "v1":
                    await asyncio.sleep(0.02)
            order = (await stubs.state()).halt
            assert (order.operator, order.reason) == ("ada", "odd answers")
            assert (await error_of(stubs.promote("v2"))).reason == HALTED
        ROLLOUT_HALTED.set(0)  # the command in this process has set it too
        async with generator_service(tmp_path, port) as stubs:
            await until_ready(stubs, "v1")
            assert halted_metric() == 1
            assert (await error_of(stubs.start("v2", candidate))).reason == HALTED
            assert await operate(settings, "resume", "--json") == 0
            assert not (await stubs.state()).HasField("halt")
            assert halted_metric() == 0
            await stubs.start("v2", candidate)
            assert await stubs.version_for(CANDIDATES_USER) == "v2"
    ordered, lifted = shown(capsys.readouterr().out)
    assert ordered["halt"]["operator"] == "ada"
    assert (ordered["candidate"], ordered["history"][0]["version"]) == (None, "v2")
    assert lifted["halt"] is None


async def test_halt_reaches_all_replicas_through_the_database(
    tmp_path: Path, database: str
) -> None:
    async with replicas(tmp_path, FakePredictor(), database) as pair:
        await pair[0].start("v2", model_directory(tmp_path, "v2"))
        settings = GeneratorSettings(database_url=database)
        assert await operate(settings, "halt", "--reason", "odd answers") == 0
        for stubs in pair:
            assert (await stubs.state()).halt.reason == "odd answers"
            assert await stubs.version_for(CANDIDATES_USER) == "v1"
            assert (await error_of(stubs.promote("v2"))).reason == HALTED


async def test_restore_makes_an_earlier_version_stable_during_a_halt_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    predictor = FakePredictor()
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        settings = generator_settings(tmp_path, port)
        restore = ("restore", "--reason", "bad answers", "--version")
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        await stubs.promote("v2")
        assert await operate(settings, *restore, "v1") == 2
        assert "thumbwheel halt" in capsys.readouterr().err
        assert (await stubs.state()).stable.version == "v2"
        assert await operate(settings, "halt", "--reason", "bad answers") == 0
        assert await operate(settings, *restore, "v0") == 2
        assert "v0" in capsys.readouterr().err
        assert await operate(settings, *restore, "v1") == 0
        async with asyncio.timeout(30):
            while await answering(stubs) != "v1":  # fails while the version is loaded
                await asyncio.sleep(0.02)
        state = await stubs.state()
    assert state.HasField("halt")
    assert (state.history[0].version, state.history[0].reason) == ("v1", "restored: bad answers")


@pytest.mark.parametrize("reason", ["", "x" * 501])
async def test_reason_outside_its_limit_changes_nothing(
    tmp_path: Path, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = GeneratorSettings(rollout_file=tmp_path / "rollout.json")
    settings.rollout_file.write_text(
        '{"format": 1, "stable": null, "candidate": null, "retired": [], "history": []}'
    )
    before = settings.rollout_file.read_bytes()
    assert await operate(settings, "halt", "--reason", reason) == 2
    assert "500" in capsys.readouterr().err
    assert settings.rollout_file.read_bytes() == before


async def test_halt_without_a_stored_rollout_is_refused(tmp_path: Path) -> None:
    settings = GeneratorSettings(rollout_file=tmp_path / "rollout.json")
    with refused(UnusableStoreError, reason="MISSING"):
        await operate(settings, "halt", "--reason", "odd answers")
    assert not settings.rollout_file.exists()
