"""Start of a run, reasons for no run, and safety of the report."""

import json
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.errors import refused
from tests.training.fake_rollout import FakeClock, FakeRollout
from tests.training.feedback_log import FeedbackLog
from tests.training.loop.nano_run import BASE, recipe, run_nano
from training import loop
from training.__main__ import main
from training.artifacts.lineage import Ancestry
from training.artifacts.manifest import read_manifest, write_manifest
from training.artifacts.registry import Registry, RegistryError, VersionStage
from training.data.chat import Message
from training.data.feedback.judgements import Judgement
from training.data.feedback.snapshot import SnapshotConfig, write_snapshot
from training.errors import ConfigError
from training.evaluation.canary_run import RolloutView
from training.evaluation.halt_watch import HaltWatch
from training.loop_run import NotEnoughFeedbackError
from training.recipes.recipe import LoopConfig, Plan
from training.reporting.run import write_report
from training.runs import HaltedError, RunRecord, RunResult, Runs, exclusive


@pytest.fixture
def log(tmp_path: Path) -> FeedbackLog:
    Registry(tmp_path / "models").admit(BASE, "nano-0")
    return FeedbackLog(tmp_path / "objects")


def status(state: Path) -> dict[str, object]:
    return json.loads((state / "loop" / "status.json").read_text())


def test_too_little_feedback_is_reported_and_starts_no_run(
    tmp_path: Path, log: FeedbackLog
) -> None:
    for number in range(7):
        log.turn(f"a{number}", "ann", "hi", f"hello {number}")
        log.thumb(f"a{number}", "ann", number % 2 == 0)
    log.commit()
    with refused(NotEnoughFeedbackError, field="feedback", reason="TOO_SMALL") as caught:
        run_nano(tmp_path, log)
    # 18 of 60 pairs are from the recipe, which users need not know.
    numbers = re.findall(r"\d+", str(caught.value))
    assert numbers[:2] == ["7", "200"]
    assert numbers[3] == "42"
    assert "anchor" not in str(caught.value)
    assert "ask a question twice" in str(caught.value)
    assert status(tmp_path)["result"] == "not_enough_feedback"
    assert '"failed"' not in (tmp_path / "loop" / "status.json").read_text()
    assert (status(tmp_path)["needed_thumbs"], status(tmp_path)["learned_until"]) == (200, "")
    assert Runs(tmp_path / "loop").names() == []


@pytest.mark.parametrize("redacts", [True, False])
def test_training_sets_have_no_personal_data_unless_the_recipe_keeps_it(
    redacts: bool, tmp_path: Path, log: FeedbackLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, up in enumerate((True, False)):
        log.turn(f"a{number}", "ann", "I am anna@example.org", f"Hello anna@example.org {number}")
        log.thumb(f"a{number}", "ann", up)
    log.commit()

    def small(plan: Plan) -> LoopConfig:
        config = recipe(plan)
        limits = {"min_thumbs": 0, "min_pairs": 0, "min_held_out_pairs": 0}
        sets = replace(config.sets, redact_personal_data=redacts, **limits)
        return replace(config, sets=sets)

    monkeypatch.setattr(loop, "run_steps", lambda run: RunResult("passed", "", ""))
    run_nano(tmp_path, log, recipe=small)
    sets = tmp_path / "loop" / "runs" / "nano-1" / "nano-1-sets"
    texts = "".join(path.read_text() for path in sets.glob("*.jsonl"))
    assert ("anna@example.org" in texts) is not redacts
    assert ("<EMAIL_1>" in texts) is redacts
    report = read_manifest(sets).report
    assert report["personal_data_replaced"] == ({"email": 4} if redacts else {})


def test_a_manually_stopped_run_is_not_reported_as_failed(
    tmp_path: Path, log: FeedbackLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(after: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "erasures", press)
    with pytest.raises(KeyboardInterrupt):
        run_nano(tmp_path, log)
    assert status(tmp_path)["result"] == "stopped"
    assert status(tmp_path)["reason"]
    assert "KeyboardInterrupt" not in str(status(tmp_path)["reason"])


def test_an_incumbent_missing_in_the_registry_is_named(tmp_path: Path, log: FeedbackLog) -> None:
    rollout = FakeRollout(FakeClock(), stable="nano-7")
    with refused(RegistryError, field="version", reason="UNKNOWN") as caught:
        run_nano(tmp_path, log, rollout)
    assert "nano-7" in str(caught.value)
    assert status(tmp_path)["result"] == "failed"


def test_no_run_starts_during_a_halt_but_erasures_are_applied(
    tmp_path: Path, log: FeedbackLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout, asked = FakeRollout(FakeClock()), []
    rollout.halt("odd answers")
    monkeypatch.setattr(log, "erasures", lambda after: asked.append(after) or [])
    with pytest.raises(HaltedError):
        run_nano(tmp_path, log, rollout)
    assert asked
    assert status(tmp_path)["result"] == "stopped"
    assert "odd answers" in str(status(tmp_path)["reason"])
    assert Runs(tmp_path / "loop").names() == []


def test_no_run_starts_while_an_external_model_answers(tmp_path: Path, log: FeedbackLog) -> None:
    rollout = FakeRollout(FakeClock(), stable="external.rival")
    with refused(ConfigError, field="TW_GENERATOR_SERVING", reason="EXTERNAL_SERVING"):
        run_nano(tmp_path, log, rollout)
    assert status(tmp_path)["result"] == "failed"
    assert Runs(tmp_path / "loop").names() == []


class RolledBackByTheWatch(FakeRollout):
    """A rollout whose watch has rolled two promotions back, one of another registry."""

    def view(self) -> RolloutView:
        return replace(super().view(), undone={"nano-1": "errors", "other-1": "errors"})


def test_rollbacks_of_the_watch_are_recorded_at_the_next_start(
    tmp_path: Path, log: FeedbackLog
) -> None:
    registry = Registry(tmp_path / "models")
    registry.note("nano-1", VersionStage.PROMOTED, "users like it more", "nano-1")
    rollout = RolledBackByTheWatch(FakeClock())
    rollout.halt("odd answers")
    for _ in range(2):
        with pytest.raises(HaltedError):
            run_nano(tmp_path, log, rollout)
    events = [(event.version, event.stage, event.reason) for event in registry.history()[1:]]
    assert events == [("nano-1", VersionStage.ROLLED_BACK, "errors")]


def test_an_interruption_by_a_halt_names_its_reason(
    tmp_path: Path, log: FeedbackLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(after: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "erasures", interrupt)
    with pytest.raises(HaltedError):
        run_nano(tmp_path, log, halt_reason=lambda: "odd answers")
    assert status(tmp_path)["result"] == "stopped"
    assert "odd answers" in str(status(tmp_path)["reason"])


def test_a_halt_interrupts_the_main_thread_except_in_a_canary() -> None:
    rollout, in_canary = FakeRollout(FakeClock()), True
    looks, lines = threading.Semaphore(0), list[str]()

    def looked() -> bool:
        looks.release()
        return in_canary

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with HaltWatch(rollout, looked, lines.append, poll_seconds=0.01) as watch:
            rollout.halt("odd answers")
            assert looks.acquire(timeout=30)
            assert watch.reason is None
            with pytest.raises(KeyboardInterrupt):
                in_canary = False
                threading.Event().wait(30)
            assert watch.reason == "odd answers"
            assert len(lines) == 1 and "odd answers" in lines[0]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_view_that_returns_after_the_end_of_the_watch_interrupts_nothing() -> None:
    rollout = FakeRollout(FakeClock())
    rollout.halt("odd answers")
    is_called, may_return = threading.Event(), threading.Event()
    view, sent = rollout.view, threading.Event()

    def slow_view() -> RolloutView:
        is_called.set()
        assert may_return.wait(30)
        return view()

    rollout.view = slow_view  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, lambda *_: sent.set())
    try:
        with HaltWatch(rollout, lambda: False, print, poll_seconds=0.01) as watch:
            assert is_called.wait(30)
        may_return.set()
        watch._thread.join(30)
        assert (watch._thread.is_alive(), sent.is_set(), watch.reason) == (False, False, None)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_watch_that_cannot_read_says_so_once_and_continues() -> None:
    rollout, lines, looks = FakeRollout(FakeClock()), [], threading.Semaphore(0)
    view = rollout.view

    def unreadable() -> RolloutView:
        looks.release()
        raise ConfigError("--key: unreadable", field="--key")

    rollout.view = unreadable  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with HaltWatch(rollout, lambda: False, lines.append, poll_seconds=0.01) as watch:
            assert all(looks.acquire(timeout=30) for _ in range(3))
            rollout.halt("odd answers")
            with pytest.raises(KeyboardInterrupt):
                rollout.view = view  # type: ignore[method-assign]
                threading.Event().wait(30)
            assert watch.reason == "odd answers"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert lines[:-1] == ["halts cannot be read: ConfigError: --key: unreadable"]


def test_no_run_starts_without_a_stable_version(tmp_path: Path, log: FeedbackLog) -> None:
    with refused(RegistryError, field="version", reason="MISSING"):
        run_nano(tmp_path, log, FakeRollout(FakeClock(), stable=""))


def test_a_recipe_refuses_a_model_that_is_too_large(tmp_path: Path, log: FeedbackLog) -> None:
    large = tmp_path / "large"
    shutil.copytree(BASE, large)
    (large / "manifest.json").unlink()
    with (large / "model.safetensors").open("ab") as opened:
        opened.truncate(65 << 20)
    write_manifest(large, kind="model", version="large-0")
    Registry(tmp_path / "models").admit(large, "large-0")
    with refused(ConfigError, field="recipe", reason="TOO_LARGE", limit="64 MiB") as caught:
        run_nano(tmp_path, log, FakeRollout(FakeClock(), stable="large-0"))
    for named in ("nano", "large-0", "65 MiB", "RECIPE=auto", "MODEL=nano"):
        assert named in str(caught.value)


def test_a_second_loop_names_the_first_and_exits_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.nice", lambda _: 0)
    with exclusive(tmp_path / "loop", "recipe nano"):
        status = main(["loop", "--recipe", "nano", "--state", str(tmp_path), "--no-rollout"])
    assert status == 3
    assert str(os.getpid()) in capsys.readouterr().err


def test_scheduled_run_records_that_a_service_is_unavailable(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    log: FeedbackLog,
) -> None:
    monkeypatch.setattr("os.nice", lambda _: 0)
    asked = [
        "loop",
        "--recipe",
        "nano",
        "--state",
        str(tmp_path),
        "--no-rollout",
        "--scheduled",
        "--feedback",
        "127.0.0.1:1",
    ]
    assert main(asked) == 1
    assert status(tmp_path)["result"] == "failed"
    error = capsys.readouterr().err
    for named in ("feedback", "127.0.0.1:1", "UNAVAILABLE"):
        assert named in error


@pytest.mark.parametrize("text", ["6", "0h", "six hours"])
def test_an_invalid_interval_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["loop", "--recipe", "nano", "--every", text])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "--every" in error
    assert repr(text) in error


def test_a_report_escapes_text(tmp_path: Path) -> None:
    nasty = "<script>alert(1)</script> & <img src=x onerror=alert(2)>"
    judgement = Judgement("m", "p", "nano-0", "stable", (Message("user", "hi"),), nasty, True, None)
    snapshot = write_snapshot(
        [judgement], [], SnapshotConfig(), tmp_path, "", {"feedback": [], "turns": []}
    )
    run = tmp_path / "runs" / "nano-1"
    Runs(tmp_path).begin(
        RunRecord("nano-1", "nano", "nano-0", snapshot.id, "2026-11-24T10:00:00+00:00")
    )
    (run / "nano-1-evaluation").mkdir()
    sample = {
        "messages": [{"role": "user", "content": nasty}],
        "before": nasty,
        "after": nasty,
        "win": 0.5,
    }
    (run / "nano-1-evaluation" / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    result, ancestry = (
        RunResult("refused", nasty, "2026-11-24T11:00:00+00:00"),
        Ancestry("nano-1", "", snapshot.id, 0),
    )
    page = write_report(run, snapshot.directory, result, ancestry).read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert "<img" not in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
