"""Commands that name a model, and commands next to the loop over gRPC.

Snapshots and erasures need exclusive access to the state.
"""

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

import training.loop
from tests.support.errors import refused
from tests.training.fake_rollout import FakeClock, FakeRollout, GrowingThumbs
from tests.training.feedback_log import FeedbackLog
from tests.training.refused_commands import refused_command
from tests.training.state_folder import StateFolder, holding, printed_erasures, question
from training import commands, remote, service_channel
from training.__main__ import main, parser
from training.data.feedback.snapshot import open_snapshot, read_judgements
from training.errors import ConfigError
from training.evaluation import canary_run
from training.model.fields import check_model_directory
from training.recipes.custom.stages import STAGES
from training.runs import exclusive


class LogService(feedback_pb2_grpc.FeedbackLogServiceServicer):
    """gRPC servicer for the log in memory."""

    def __init__(self, log: FeedbackLog) -> None:
        self._log = log

    def ListSegments(self, request, context):
        of_feedback = request.stream == feedback_pb2.STREAM_FEEDBACK
        segments = self._log.feedback_segments() if of_feedback else self._log.turn_segments()
        listed = [
            feedback_pb2.Segment(**vars(s)) for s in segments if s.sequence > request.after_sequence
        ]
        return feedback_pb2.ListSegmentsResponse(segments=listed)

    def GetDataKeys(self, request, context):
        keys = self._log.data_keys(list(request.principals))
        return feedback_pb2.GetDataKeysResponse(
            keys={n: feedback_pb2.DataKey(**vars(k)) for n, k in keys.items()}
        )

    def ListErasures(self, request, context):
        entries = [
            feedback_pb2.ErasedPrincipal(
                number=e.number,
                principal=e.principal,
                erasure=feedback_pb2.Erasure(erasure_id=e.id),
            )
            for e in self._log.erasures(request.after_number)
        ]
        return feedback_pb2.ListErasuresResponse(erasures=entries)


@pytest.fixture
def kept(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path)


@pytest.fixture
def options(kept: StateFolder) -> Iterator[list[str]]:
    """Return the options for state and feedback service."""
    server = grpc.server(futures.ThreadPoolExecutor(1))
    feedback_pb2_grpc.add_FeedbackLogServiceServicer_to_server(LogService(kept.log), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield ["--state", str(kept.state), "--feedback", f"127.0.0.1:{port}"]
    server.stop(0).wait()


def test_forget_erases_state_and_updates_the_page_between_runs(
    kept: StateFolder, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept.chat("ann")
    snapshot = kept.finish("nano-1").snapshot.id
    kept.log.erase("ann")
    assert main(["forget", *options]) == 0
    assert printed_erasures(capsys.readouterr().out) == ["1", snapshot]
    assert holding(kept.loop, "whispered") == []
    status = json.loads((kept.loop / "status.json").read_text())
    assert (status["run"], status["reason"]) == ("nano-1", "")
    assert status["erased_versions"] == [
        {"version": "nano-1", "snapshot": snapshot, "erasures": 1, "through": []},
    ]
    assert main(["forget", *options]) == 0
    assert printed_erasures(capsys.readouterr().out) == []


def test_all_commands_use_the_state_folder_of_the_clone() -> None:
    commands = (["lineage"], ["evaluate"], ["forget"], ["loop", "--recipe", "nano"])
    state = Path(__file__).parents[2] / ".state"
    assert {parser().parse_args(words).state for words in commands} == {state}


@pytest.mark.parametrize("command", ["lineage", "forget", "snapshot"])
def test_missing_state_folder_is_named_and_not_created(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing"
    assert main([command, "--state", str(missing)]) == 1
    assert f"state: folder {missing} does not exist" in capsys.readouterr().err
    assert not missing.exists()


@pytest.mark.parametrize(
    ("command", "field"),
    [
        *((f"{stage} --data {__file__} --work WORK --model", "model") for stage in STAGES),
        ("rlvr --task chain_sum --work WORK --model", "model"),
        ("generate --prompt Hello", "model"),
        ("chat", "model"),
        ("chat models/nano --compare", "compare"),
        ("evaluate --tasks piqa", "model"),
        ("probes", "model"),
        (f"perplexity --text {__file__} --", "model"),
        ("memory --gpu-gib 24 --context 2048", "model"),
    ],
)
def test_name_of_the_hub_is_refused_with_the_command_of_an_import(
    command: str, field: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*command.replace("WORK", str(tmp_path)).split(), "Qwen/Qwen3-0.6B@main"]
    _, line = refused_command(asked, capsys, field=field, reason="MISSING")
    (words,) = re.findall("thumbwheel models (import .+), then use (.+)", line)
    options = parser("import").parse_args(words[0].split())
    assert (options.source, options.name) == ("Qwen/Qwen3-0.6B@main", "qwen3-0.6b")
    assert Path(options.to, options.name) == Path(words[1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("gpt2", "import OWNER/gpt2 --name gpt2 "),
        ("models/nanno", "; did you mean nano?"),
        ("models/other", "import OWNER/other --name other "),
        ("README.md", "is a file"),
    ],
)
def test_error_of_a_model_that_is_no_directory_says_what_to_do(given: str, hint: str) -> None:
    with refused(ConfigError, field="model", reason="MISSING") as caught:
        check_model_directory(Path(given), "model")
    assert hint in str(caught.value)
    assert ("import" in hint) == ("import" in str(caught.value))


def test_snapshot_applies_erasures_first_and_contains_readable_feedback(
    kept: StateFolder, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept.chat("ann", "bob", "cid")
    kept.finish("nano-1")
    kept.log.erase("ann")
    kept.log.forbidden = {"bob"}
    assert main(["snapshot", *options]) == 0
    snapshot = open_snapshot(Path(capsys.readouterr().out.strip()))
    assert {j.context[0].content[: len(question("cid"))] for j in read_judgements(snapshot)} == {
        question("cid")
    }
    assert snapshot.manifest.report["dropped"] == {"erased": 30, "no_consent": 30}
    assert holding(kept.loop, question("ann")) == []


@pytest.fixture
def unchanged(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep niceness and SIGTERM handling of this process."""
    monkeypatch.setattr("os.nice", lambda _: 0)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(("words", "status"), [([], 4), (["--scheduled"], 0)])
def test_too_little_feedback_exits_with_0_when_scheduled(
    kept: StateFolder,
    options: list[str],
    words: list[str],
    status: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kept.chat("ann")
    assert main(["loop", "--recipe", "nano", "--no-rollout", *options, *words]) == status
    assert json.loads((kept.loop / "status.json").read_text())["result"] == "not_enough_feedback"


@pytest.mark.usefixtures("unchanged")
def test_sigterm_message_says_that_the_run_can_be_resumed(
    kept: StateFolder,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        training.loop, "apply_erasures", lambda *_: signal.raise_signal(signal.SIGTERM)
    )
    assert main(["loop", "--recipe", "nano", "--no-rollout", *options]) == 130
    assert json.loads((kept.loop / "status.json").read_text())["result"] == "stopped"
    error = capsys.readouterr().err
    assert error
    assert "Traceback" not in error


@pytest.mark.usefixtures("unchanged")
def test_code_commit_is_empty_without_git(
    kept: StateFolder, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.chat("ann")
    monkeypatch.setenv("PATH", "")
    assert main(["snapshot", *options]) == 0


@pytest.mark.parametrize("command", ["forget", "snapshot"])
def test_erasures_are_not_applied_while_a_run_is_active(
    kept: StateFolder, options: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kept.chat("ann")
    kept.begin("nano-1")
    kept.log.erase("ann")
    with exclusive(kept.loop, "recipe nano"):
        assert main([command, *options]) == 3
    assert str(os.getpid()) in capsys.readouterr().err
    assert holding(kept.loop, question("ann"))


def test_undecryptable_bytes_are_reported_by_location_only(
    kept: StateFolder, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    kept.chat("ann")
    kept.log.turn("x", "ann", question("ann"), "whispered")
    kept.log.replace_sealed("turns", b"\x03 whispered")
    kept.log.commit()
    assert main(["snapshot", *options]) == 1
    key = kept.log.turn_segments()[-1].object_key
    (line,) = capsys.readouterr().err.splitlines()
    assert key in line
    assert "12" in line.replace(key, "").split()
    assert "whispered" not in line


def test_the_version_of_an_answer_needs_the_feedback_service(
    kept: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_channel, "OPTIONS", [])  # no retries
    words = ("lineage", "--answer", "a", "--state", str(kept.state), "--feedback", "127.0.0.1:1")
    assert main([*words]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_nothing_is_written_if_the_log_is_unavailable(
    kept: StateFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_channel, "OPTIONS", [])  # no retries
    assert main(["forget", "--state", str(kept.state), "--feedback", "127.0.0.1:1"]) == 1
    error = capsys.readouterr().err
    for named in ("feedback", "127.0.0.1:1", "UNAVAILABLE"):
        assert named in error
    assert not (kept.loop / "erasures.json").exists()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("feedback", ["--no-rollout", "--feedback", "127.0.0.1:1"]),
        ("generator", ["--generator", "127.0.0.1:1"]),
    ],
)
def test_loop_names_a_missing_service_before_the_training_code_is_loaded(
    options: list[str],
    service: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The imports take minutes at low priority on a busy machine."""

    def load(*_: object) -> None:
        raise AssertionError("loaded the training code")

    monkeypatch.setattr(commands, "_run_once", load)
    monkeypatch.setattr(service_channel, "CONNECT_SECONDS", 1.0)
    assert main(["loop", "--recipe", "nano", *options, *words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    for named in (f"{service} service at 127.0.0.1:1: UNAVAILABLE", "1 s"):
        assert named in line


def test_second_canary_of_a_version_measures_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = FakeClock()
    rollout = FakeRollout(clock)
    rates = {"nano-0": 0.5, "nano-1": 0.1}
    monkeypatch.setattr(remote, "RolloutClient", lambda *_, **__: closable(rollout))
    monkeypatch.setattr(remote, "FeedbackLog", lambda *_, **__: closable(GrowingThumbs(rates)))
    monkeypatch.setattr(canary_run, "WallClock", lambda _: clock)
    words = ["canary", "--recipe", "nano", "--version", "nano-1", "--directory", str(tmp_path)]
    words += ["--state", str(tmp_path), "--canary-users", "20"]

    assert main(words) == 0
    assert "roll_back" in capsys.readouterr().out
    rates["nano-1"] = 0.9
    assert main(words) == 0
    assert "promote" in capsys.readouterr().out
    assert rollout.stable == "nano-1"
    records = sorted(path.name for path in (tmp_path / "loop" / "canaries").iterdir())
    assert [name.partition("@")[0] for name in records] == ["nano-1", "nano-1"]


def closable(client: Any) -> Any:
    """Return the client with the method `close` of a gRPC client."""
    client.close = lambda: None
    return client
