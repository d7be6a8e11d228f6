"""The rollout over gRPC: canaries, restarts of both sides, leases, failed versions."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from thumbwheel.generator.v1 import generator_pb2

from tests.services.generator.canaries import CANDIDATES_USER, STABLES_USER, error_of, until
from tests.services.generator.predictor import FakePredictor, predictor_server
from tests.services.generator.service import (
    Stubs,
    ask,
    generator_service,
    model_directory,
    text_of,
    until_ready,
)


async def arms(stubs: Stubs) -> tuple[str, str]:
    """Return the versions of one user of the candidate and one user of the stable version."""
    events = [await stubs.generate(user_key=user) for user in (CANDIDATES_USER, STABLES_USER)]
    return events[0][0].selected.model_version, events[1][0].selected.model_version


async def test_a_canary_gets_its_share_only_when_it_is_ready(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor(load_seconds=0.3)
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        starting = asyncio.create_task(stubs.start("v2", model_directory(tmp_path, "v2")))
        await until(lambda: predictor.states.get("v2") == "LOADING")
        during = await stubs.state()
        assert await arms(stubs) == ("v1", "v1")
        await starting
        assert await arms(stubs) == ("v2", "v1")
        after = await stubs.state()
    assert (during.candidate.state, during.candidate.share) == (
        generator_pb2.VERSION_STATE_LOADING,
        0.0,
    )
    assert (after.candidate.state, after.candidate.share, after.stable.share) == (
        generator_pb2.VERSION_STATE_READY,
        0.5,
        0.5,
    )
    assert after.history[0].kind == "started"
    assert predictor.directories == {name: str(tmp_path / "models" / name) for name in ("v1", "v2")}


async def test_promotion_unloads_the_old_version_after_its_answers_end(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor(script=["word "] * 40, pace_seconds=0.02)
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        running = asyncio.create_task(stubs.generate(user_key=STABLES_USER))
        await until(lambda: predictor.counters.running == 1)
        await stubs.promote("v2")
        await asyncio.sleep(0.2)
        assert predictor.counters.unloads == []
        assert text_of(await running) == "word " * 40
        await until(lambda: predictor.counters.unloads == ["v1"])
        predictor.script, predictor.pace_seconds = ["new"], 0.0
        assert await arms(stubs) == ("v2", "v2")
        await stubs.promote("v2")
        state = await stubs.state()
    assert [change.kind for change in state.history] == ["promoted", "started"]
    assert not state.HasField("candidate")


async def test_a_rollback_assigns_all_users_to_stable_and_unloads_the_candidate(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor()
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        await stubs.roll_back("v2")
        assert await arms(stubs) == ("v1", "v1")
        await until(lambda: predictor.counters.unloads == ["v2"])
        await stubs.roll_back("v2")
        state = await stubs.state()
    assert [(change.kind, change.reason) for change in state.history] == [
        ("rolled_back", "worse"),
        ("started", "share 0.5"),
    ]


async def test_a_restarted_model_server_gets_both_versions_again(tmp_path: Path) -> None:
    first, second = FakePredictor(), FakePredictor()
    async with predictor_server(first) as port:
        running = generator_service(tmp_path, port)
        stubs = await running.__aenter__()
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"))
    try:
        async with asyncio.timeout(10):
            while (await stubs.state()).stable.reason != "the model server is unavailable":
                await asyncio.sleep(0.02)
        assert (await error_of(stubs.generate())).reason == "MODEL_NOT_READY"
        async with predictor_server(second, port):
            await until_ready(stubs, "v1")
            await until_ready(stubs, "v2", "candidate")
            assert await arms(stubs) == ("v2", "v1")
    finally:
        await running.__aexit__(None, None, None)
    assert second.directories == first.directories


async def test_stable_answers_the_users_of_a_lost_candidate(tmp_path: Path) -> None:
    predictor = FakePredictor()
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        predictor.load_seconds = 60
        del predictor.states["v2"]
        await until(lambda: predictor.states.get("v2") == "LOADING")
        await asyncio.sleep(0.2)
        events = await stubs.generate(user_key=CANDIDATES_USER)
    assert (events[0].selected.arm, events[0].selected.assignment_probability) == ("stable", 1.0)


async def test_a_version_lost_by_the_model_server_is_a_retryable_error(
    tmp_path: Path,
) -> None:
    predictor = FakePredictor()
    async with (
        predictor_server(predictor) as port,
        generator_service(tmp_path, port, reconcile_seconds=60) as stubs,
    ):
        await until_ready(stubs, "v1")
        predictor.states.clear()
        error = await error_of(stubs.generate())
        assert (error.reason, error.retry_seconds) == ("MODEL_NOT_READY", 2.0)
        await until_ready(stubs, "v1")
        assert text_of(await stubs.generate()) == "Hello there."


async def test_a_rollout_survives_a_restart_of_the_generator(tmp_path: Path) -> None:
    predictor = FakePredictor()
    async with predictor_server(predictor) as port:
        async with generator_service(tmp_path, port) as stubs:
            await until_ready(stubs, "v1")
            await stubs.start("v2", model_directory(tmp_path, "v2"))
            before = await stubs.state()
        async with generator_service(
            tmp_path, port, stable_directory=tmp_path / "nowhere"
        ) as stubs:
            await until_ready(stubs, "v2", "candidate")
            assert await stubs.state() == before
            assert await arms(stubs) == ("v2", "v1")


async def test_a_candidate_that_fails_to_load_is_rolled_back_with_the_reason(
    tmp_path: Path,
) -> None:
    cause = "files differ from manifest.json: model.safetensors"
    predictor = FakePredictor(broken={"v2": cause})
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        error = await error_of(stubs.start("v2", model_directory(tmp_path, "v2")))
        assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_FAILED")
        assert cause in error.text
        state = await stubs.state()
        assert not state.HasField("candidate")
        assert cause in state.history[0].reason
        predictor.broken.clear()
        await stubs.start("v2", tmp_path / "models" / "v2")
        assert await arms(stubs) == ("v2", "v1")


async def test_a_stable_version_that_fails_to_load_is_reported_and_retried(
    tmp_path: Path,
) -> None:
    cause = "no room"
    predictor = FakePredictor(broken={"v1": cause})
    async with (
        predictor_server(predictor) as port,
        generator_service(tmp_path, port, load_retry_seconds=0.1) as stubs,
    ):
        async with asyncio.timeout(10):
            while (await stubs.state()).stable.state != generator_pb2.VERSION_STATE_FAILED:
                await asyncio.sleep(0.02)
        assert (await stubs.state()).stable.reason == cause
        error = await error_of(stubs.generate())
        assert (error.code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_NOT_READY")
        assert cause in error.text
        predictor.broken.clear()
        await until_ready(stubs, "v1")


async def test_a_repeated_start_continues_after_the_caller_disconnected(tmp_path: Path) -> None:
    predictor = FakePredictor()
    directory = model_directory(tmp_path, "v2")
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        predictor.load_seconds = 0.5
        starting = asyncio.create_task(stubs.start("v2", directory))
        await until(lambda: predictor.states.get("v2") == "LOADING")
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await stubs.start("v2", directory, share=0.4)
        state = await stubs.state()
    assert round(state.candidate.share, 6) == 0.4
    assert predictor.counters.loads.count("v2") == 1


async def test_a_candidate_rolled_back_during_loading_never_answers(tmp_path: Path) -> None:
    predictor = FakePredictor()
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        predictor.load_seconds = 0.4
        starting = asyncio.create_task(stubs.start("v2", model_directory(tmp_path, "v2")))
        await until(lambda: predictor.states.get("v2") == "LOADING")
        await stubs.roll_back("v2")
        assert (await error_of(starting)).code is grpc.StatusCode.FAILED_PRECONDITION
        assert await arms(stubs) == ("v1", "v1")
        await until(lambda: "v2" in predictor.counters.unloads)


async def test_versions_loaded_by_other_clients_are_not_unloaded(tmp_path: Path) -> None:
    predictor = FakePredictor(states={"other": "READY"})
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        await asyncio.sleep(0.2)
    assert predictor.states == {"other": "READY", "v1": "READY"}


def start(**changes: Any) -> generator_pb2.StartCanaryRequest:
    fields: dict[str, Any] = {
        "version": "v2",
        "directory": "/models/v2",
        "share": 0.1,
        "lease": Duration(seconds=60),
    }
    return generator_pb2.StartCanaryRequest(**(fields | changes))


VERSION_LIMIT = (
    "1 to 128 of a-z, 0-9, '.', '_', '-', starting with a letter or digit, and not with external."
)
BAD: list[tuple[str, Any, str, str]] = [
    ("StartCanary", start(version=""), "version", VERSION_LIMIT),
    ("StartCanary", start(version="V2"), "version", VERSION_LIMIT),
    ("StartCanary", start(version=".."), "version", VERSION_LIMIT),
    ("StartCanary", start(version="v" * 129), "version", VERSION_LIMIT),
    ("StartCanary", start(version="external.rival"), "version", VERSION_LIMIT),
    ("StartCanary", start(share=0), "share", "above 0 to 0.5"),
    ("StartCanary", start(share=0.51), "share", "above 0 to 0.5"),
    ("StartCanary", start(share=float("nan")), "share", "above 0 to 0.5"),
    ("StartCanary", start(lease=Duration(seconds=9)), "lease", "10 s to 24 h"),
    ("StartCanary", start(lease=Duration(seconds=86_401)), "lease", "10 s to 24 h"),
    ("StartCanary", start(lease=None), "lease", "10 s to 24 h"),
    ("StartCanary", start(directory="models/v2"), "directory", "an absolute path"),
    (
        "StartCanary",
        start(directory="/nowhere"),
        "directory",
        "a model directory with manifest.json",
    ),
    ("RenewCanary", generator_pb2.RenewCanaryRequest(version="v2"), "lease", "10 s to 24 h"),
    (
        "RenewCanary",
        generator_pb2.RenewCanaryRequest(lease=Duration(seconds=60)),
        "version",
        VERSION_LIMIT,
    ),
    (
        "PromoteCanary",
        generator_pb2.PromoteCanaryRequest(version="v2", reason="r" * 501),
        "reason",
        "at most 500 characters",
    ),
    (
        "RollBackCanary",
        generator_pb2.RollBackCanaryRequest(version="v2", reason="r" * 501),
        "reason",
        "at most 500 characters",
    ),
    ("RollBackCanary", generator_pb2.RollBackCanaryRequest(), "version", VERSION_LIMIT),
]


async def test_invalid_input_names_field_and_limit_and_changes_nothing(tmp_path: Path) -> None:
    async with (
        predictor_server(FakePredictor()) as port,
        generator_service(tmp_path, port) as stubs,
    ):
        for method, request, field, limit in BAD:
            error = await error_of(getattr(stubs.rollout, method)(request, timeout=5))
            assert (error.code, error.field, error.limit) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                field,
                limit,
            ), method
        misnamed = start(directory=str(model_directory(tmp_path, "v3")))
        error = await error_of(stubs.rollout.StartCanary(misnamed, timeout=5))
        assert (error.field, error.limit) == ("version", "the version in manifest.json")
        state = await stubs.state()
    assert not state.HasField("candidate")
    assert not state.history


@pytest.mark.parametrize("method", ["RenewCanary", "PromoteCanary"])
async def test_only_the_candidate_is_renewed_or_promoted(tmp_path: Path, method: str) -> None:
    kinds = {"RenewCanary": {"lease": Duration(seconds=60)}, "PromoteCanary": {}}
    request = getattr(generator_pb2, f"{method}Request")(version="v2", **kinds[method])
    async with (
        predictor_server(FakePredictor()) as port,
        generator_service(tmp_path, port) as stubs,
    ):
        error = await error_of(getattr(stubs.rollout, method)(request, timeout=5))
    assert (error.code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_THE_CANDIDATE")


async def test_an_answer_keeps_its_version_while_the_rollout_changes(tmp_path: Path) -> None:
    predictor = FakePredictor(script=["word "] * 20, pace_seconds=0.02)
    async with predictor_server(predictor) as port, generator_service(tmp_path, port) as stubs:
        await until_ready(stubs, "v1")
        await stubs.start("v2", model_directory(tmp_path, "v2"))
        call = stubs.generator.Generate(ask(user_key=CANDIDATES_USER), timeout=20)
        events: list[Any] = []
        async for event in call:
            if not events:
                await stubs.roll_back("v2")
            events.append(event)
    assert events[0].selected.model_version == "v2"
    assert text_of(events) == "word " * 20
