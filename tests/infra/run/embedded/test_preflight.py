"""A running or missing system, an unknown recipe and too little feedback are reported first.

Too little feedback is recorded in the status. An interrupted run continues.
"""

import json
import os
import re
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

from infra.run.embedded import base_model, preflight
from infra.run.embedded.__main__ import TOO_LITTLE_FEEDBACK, check, loop_command, parse
from infra.run.embedded.base_model import install_base
from infra.run.embedded.layout import ROOT, Layout
from infra.run.embedded.preflight import (
    NEEDED_THUMBS,
    RECIPES,
    FeedbackUnreachableError,
    UnknownRecipeError,
    check_not_running,
    check_recipe,
    choose_recipe,
    count_thumbs,
    find_ports,
    has_too_little_feedback,
    select_recipe,
)
from infra.run.supervision.supervisor import RUNNING, AlreadyRunningError, NotRunningError
from infra.simulate.users.settings import PLANS
from tests.support.errors import refused
from training.__main__ import parser
from training.commands import TOO_LITTLE as TURNS_TOO_LITTLE
from training.commands import canary
from training.errors import ConfigError
from training.planning.accelerators import cpu
from training.planning.hardware import Hardware
from training.recipes.custom.loop_recipe import RECIPES as TRAINED
from training.recipes.names import MAX_MODEL_BYTES
from training.recipes.recipe import Plan
from training.runs import LoopRunningError, RunRecord, RunResult, Runs, exclusive, read_status

PORTS = {"http": 8123, "feedback": 8124}


def run_in(state: Path, pid: int) -> None:
    """Write the file of a supervisor with this process id."""
    state.mkdir(parents=True)
    (state / RUNNING).write_text(json.dumps({"pid": pid, "ports": PORTS}))


def ended_pid() -> int:
    """Return the id of a process that has ended."""
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_second_start_prints_the_url_of_the_first(tmp_path: Path) -> None:
    check_not_running(tmp_path / "state")
    run_in(tmp_path / "state", os.getpid())
    (tmp_path / "state" / "owner.key").write_text("tw_owner\n")
    with refused(AlreadyRunningError, field=str(tmp_path / "state"), reason="IN_USE") as caught:
        check_not_running(tmp_path / "state")
    assert str(os.getpid()) in caught.value.text
    assert caught.value.text.split()[-1] == "http://127.0.0.1:8123/#key=tw_owner"


def test_stale_pid_file_is_ignored(tmp_path: Path) -> None:
    run_in(tmp_path / "state", ended_pid())
    check_not_running(tmp_path / "state")


def test_loop_without_system_suggests_the_running_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "ROOT", tmp_path)
    monkeypatch.setattr(preflight, "STACK_STATE", tmp_path / ".state" / "stack")
    with refused(
        NotRunningError, field=str(tmp_path / ".state"), reason="STOPPED", limit=""
    ) as caught:
        find_ports(tmp_path / ".state")
    assert "make up" in caught.value.text
    run_in(tmp_path / ".state" / "stack", os.getpid())
    with refused(
        NotRunningError, field=str(tmp_path / ".state"), reason="STOPPED", limit=".state/stack"
    ) as caught:
        find_ports(tmp_path / ".state")
    assert "make loop STATE=.state/stack" in caught.value.text
    assert find_ports(tmp_path / ".state" / "stack") == PORTS


def test_unknown_recipe_is_reported_with_known_recipes() -> None:
    with refused(
        UnknownRecipeError, field="RECIPE", reason="UNKNOWN", limit="nano, small, auto"
    ) as caught:
        check_recipe("medium")
    assert "medium" in caught.value.text
    assert set(RECIPES) == set(TRAINED) == set(PLANS)


@pytest.mark.parametrize(
    ("base", "recipe"),
    [("nano-0", "nano"), ("small-0", "small"), ("qwen-0", "auto"), ("nano-1b", "auto")],
)
def test_without_recipe_the_base_model_decides(tmp_path: Path, base: str, recipe: str) -> None:
    assert select_recipe("", tmp_path) == "small"
    (tmp_path / "base.json").write_text(json.dumps({"base": base}))
    assert select_recipe("", tmp_path) == recipe
    assert select_recipe("nano", tmp_path) == "nano"


@pytest.mark.parametrize(
    ("recipe", "model", "chosen"),
    [
        ("", "", "small"),
        ("", "nano", "nano"),
        ("", "small", "small"),
        ("", "OWNER/model", "auto"),
        ("nano", "", "nano"),
        ("auto", "nano", "auto"),
    ],
)
def test_model_decides_the_recipe_of_a_demonstration(recipe: str, model: str, chosen: str) -> None:
    assert choose_recipe(recipe, model) == chosen


def write_large_model(directory: Path) -> Path:
    """Create a sparse file of weights that is a byte too large for the recipe nano."""
    directory.mkdir(parents=True)
    with (directory / "model.safetensors").open("wb") as file:
        file.truncate(MAX_MODEL_BYTES["nano"] + 1)
    return directory


def test_recipe_is_refused_for_a_model_that_it_cannot_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = write_large_model(tmp_path / "models" / "large-0")
    monkeypatch.setattr(base_model, "resolve_model", lambda spec, models: large)
    layout = Layout(tmp_path / "state", {})
    with refused(ConfigError, field="recipe", reason="TOO_LARGE", limit="64 MiB"):
        install_base(layout, str(large), "nano")
    assert not layout.state.exists()
    # The base of a running system.
    (tmp_path / "base.json").write_text(json.dumps({"base": "large-0"}))
    assert select_recipe("auto", tmp_path) == "auto"
    with refused(ConfigError, field="recipe", reason="TOO_LARGE", limit="64 MiB"):
        select_recipe("nano", tmp_path)


class Log(feedback_pb2_grpc.FeedbackLogServiceServicer):
    """Feedback service with configurable counts."""

    thumbs = 0

    def CountThumbs(self, request: Any, context: Any) -> Any:
        up = feedback_pb2.ThumbCount(model_version="nano-0", arm="stable", up=self.thumbs)
        return feedback_pb2.CountThumbsResponse(
            counts=[up, feedback_pb2.ThumbCount(arm="pinned", down=1)]
        )


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def feedback(log: Log) -> Iterator[str]:
    """Return the address of the service."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server(log, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def begun(state: Path) -> Runs:
    """Start a run in the state folder."""
    runs = Runs(state / "loop")
    runs.begin(RunRecord("nano-1", "nano", "nano-0", "snap-1", "2026-11-26T12:00:00+00:00"))
    return runs


def test_missing_thumbs_are_printed_and_recorded_for_the_page(
    tmp_path: Path, log: Log, feedback: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log.thumbs = 40
    begun(tmp_path).end("nano-1", RunResult("refused", "too weak", "2026-11-26T13:00:00+00:00"))
    (tmp_path / "loop" / "status.json").write_text(json.dumps(BEFORE))
    assert has_too_little_feedback("nano", tmp_path, feedback)
    assert {"41", "200"} <= set(re.findall(r"\d+", capsys.readouterr().out.splitlines()[-1]))
    status = read_status(tmp_path / "loop")
    assert status is not None
    assert (status.run, status.recipe, status.result) == ("nano-2", "nano", "not_enough_feedback")
    assert (status.needed_thumbs, status.learned_until) == (200, "2026-11-26T12:00:00+00:00")
    assert status.erased_versions == BEFORE["erased_versions"]


BEFORE = {
    "run": "nano-1",
    "recipe": "nano",
    "started": "",
    "steps": [],
    "erased_versions": [{"version": "nano-1"}],
}


def test_enough_feedback_is_left_to_the_run(tmp_path: Path, log: Log, feedback: str) -> None:
    log.thumbs = 199
    assert not has_too_little_feedback("nano", tmp_path, feedback)
    assert not list(tmp_path.iterdir())


def test_interrupted_run_continues_with_its_feedback(tmp_path: Path, feedback: str) -> None:
    begun(tmp_path)
    assert not has_too_little_feedback("nano", tmp_path, feedback)


def test_running_run_keeps_its_status(tmp_path: Path, feedback: str) -> None:
    with (
        exclusive(tmp_path / "loop", "recipe nano"),
        refused(LoopRunningError, reason="IN_USE") as caught,
    ):
        has_too_little_feedback("nano", tmp_path, feedback)
    assert str(os.getpid()) in str(caught.value)
    assert read_status(tmp_path / "loop") is None


def test_unreachable_feedback_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.run.embedded.preflight.CALL_SECONDS", 0.1)
    with refused(FeedbackUnreachableError, field="127.0.0.1:1", reason="UNREACHABLE") as caught:
        count_thumbs("127.0.0.1:1")
    assert "DEADLINE_EXCEEDED" in caught.value.text


def test_check_command_has_the_exit_status_of_the_run(tmp_path: Path, feedback: str) -> None:
    ports = {"feedback": int(feedback.rsplit(":", 1)[1])}
    (tmp_path / RUNNING).write_text(json.dumps({"pid": os.getpid(), "ports": ports}))
    assert check("small", tmp_path) == TOO_LITTLE_FEEDBACK == TURNS_TOO_LITTLE


def test_loop_of_a_system_with_nano_trains_nano(
    tmp_path: Path, log: Log, feedback: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = {"feedback": int(feedback.rsplit(":", 1)[1]), "generator": 1, "review": 2}
    layout = Layout(tmp_path, ports)
    layout.prepare()
    install_base(layout, "nano")
    (tmp_path / RUNNING).write_text(json.dumps({"pid": os.getpid(), "ports": ports}))
    command = loop_command(layout, parse(["loop", "--state", str(tmp_path)]))
    assert command[command.index("--recipe") + 1] == "nano"
    log.thumbs = 150
    assert check(parse(["check"]).recipe, tmp_path) == TOO_LITTLE_FEEDBACK
    assert "200" in capsys.readouterr().out


def test_canary_of_a_version_gets_the_addresses_of_the_system(tmp_path: Path) -> None:
    layout = Layout(tmp_path, {"feedback": 1, "generator": 2})
    words = ["canary", "--version", "nano-1", "--state", str(tmp_path)]
    options = parser().parse_args(loop_command(layout, parse(words))[3:])
    assert options.command is canary
    assert (options.version, options.directory) == ("nano-1", tmp_path / "models" / "nano-1")
    assert (options.feedback, options.generator) == (layout.target("feedback"), "127.0.0.1:2")


@pytest.mark.parametrize("recipe", TRAINED)
def test_needed_thumbs_match_the_recipe(recipe: str, tmp_path: Path) -> None:
    plan = Plan(f"{recipe}-1", tmp_path, ROOT / "models" / "nano", Hardware(cpu(2, 8.0)))
    config = TRAINED[recipe](plan)
    assert NEEDED_THUMBS[recipe] == config.sets.min_thumbs
