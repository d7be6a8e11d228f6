"""The command `thumbwheel evaluate`."""

from pathlib import Path

import pytest

from tests.support.model_server import KEY, FakeModelServer, fake_model_server
from training.__main__ import main
from training.artifacts.scores import ScoreStore, TaskScore
from training.benchmarks.commands import table
from training.benchmarks.tasks import BENCHMARKS
from training.verification.sandbox.bubblewrap import PROGRAM_VARIABLE

NANO = Path(__file__).resolve().parents[3] / "models" / "nano"
pytestmark = pytest.mark.xdist_group("lm_eval")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["model", "--tasks", "hellaswgag"],
            ("hellaswgag", "openbookqa", "did you mean hellaswag?"),
        ),
        (["model"], ("tasks", "none")),
        (["--tasks", "piqa"], ("model", "directory")),
        (["model", "--quick", "--limit", "5"], ("quick", "limit")),
        ([str(NANO), "--tasks", "piqa", "--limit", "1"], ("limit", "1 items")),
        (["model", "--tasks", "piqa,mbpp", "--samples", "5"], ("samples", "piqa", "mbpp")),
        (["model", "--tasks", "mbpp", "--samples", "201"], ("samples", "200")),
        (["model", "--tasks", "mbpp", "--temperature", "0.5"], ("temperature", "several")),
        (["Unknown-1", "--tasks", "piqa"], ("model", "Unknown-1", "directory")),
        (["unknown-1", "--tasks", "piqa"], ("version", "unknown-1", "models")),
        (["docs", "--tasks", "piqa"], ("model", "manifest.json")),
        (["model", "--tasks", "piqa", "--served-name", "a"], ("--served-name", "URL")),
        (["http://127.0.0.1", "--tasks", "piqa", "--key-file", "none"], ("--key-file", "none")),
    ],
)
def test_bad_input_is_one_line_with_field_and_value(
    arguments: list[str], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "--state", str(tmp_path), *arguments]) == 1

    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line


def test_list_names_all_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--tasks", "list"]) == 0

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(BENCHMARKS)


def evaluate(server: FakeModelServer, state: Path, *arguments: str) -> int:
    key = state / "key"
    key.write_text(KEY)
    return main(["evaluate", server.url, "--state", str(state), "--key-file", str(key), *arguments])


def test_url_is_evaluated_and_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark_data: None
) -> None:
    with fake_model_server(answer=lambda prompt: " July 4") as server:
        assert evaluate(server, tmp_path, "--tasks", "nq_open", "--limit", "8") == 0

    (score,) = ScoreStore(tmp_path / "loop").scores("fake-1").values()
    assert (score.task, score.items, score.is_complete) == ("nq_open", 8, False)
    assert "not for the gate" in capsys.readouterr().out


def test_endpoint_that_stops_in_the_middle_is_reported_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark_data: None
) -> None:
    arguments = ("--tasks", "nq_open", "--limit", "40")
    with fake_model_server(fail_after=70) as server:
        assert evaluate(server, tmp_path, *arguments, "--version", "v-1") == 1
        error = capsys.readouterr().err
        assert "HTTP 500" in error and "the same command resumes" in error
        assert ScoreStore(tmp_path / "loop").scores("v-1") == {}

    # The same model at another address continues.
    with fake_model_server() as server:
        assert evaluate(server, tmp_path, *arguments, "--version", "v-1") == 0

    assert "32 of 40 items from an earlier evaluation" in capsys.readouterr().err
    assert len(ScoreStore(tmp_path / "loop").items("v-1", "nq_open")) == 40


def test_name_with_scores_of_another_model_is_refused_before_an_item(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark_data: None
) -> None:
    store = ScoreStore(tmp_path / "loop")
    words = ("--tasks", "nq_open", "--limit", "8", "--version", "v-1")
    with fake_model_server() as server:
        assert evaluate(server, tmp_path, *words) == 0
    first = store.scores("v-1")
    # For example measured on another machine, which has the journal.
    (journal,) = tmp_path.rglob("*.journal")
    journal.unlink()
    with fake_model_server(model="other") as server:
        assert evaluate(server, tmp_path, *words) == 1
        assert "--version" in capsys.readouterr().err
        # The log-probs of a fixed text only.
        assert [path for path, _ in server.requests].count("/v1/completions") == 1
        assert store.scores("v-1") == first
        assert evaluate(server, tmp_path, *words, "--restart") == 0
    (score,) = store.scores("v-1").values()
    assert score.model_sha256 not in ("", first["nq_open"].model_sha256)


def test_another_model_of_the_same_name_does_not_continue(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], benchmark_data: None
) -> None:
    words = ("--tasks", "nq_open", "--limit", "40")
    with fake_model_server(fail_after=70) as server:
        assert evaluate(server, tmp_path, *words) == 1
    (journal,) = tmp_path.rglob("*.journal")
    before = journal.read_text()
    capsys.readouterr()
    with fake_model_server(log_prob=lambda text, position: -1.1) as server:
        assert evaluate(server, tmp_path, *words) == 1
        assert "another model" in capsys.readouterr().err
        assert journal.read_text() == before
    # The first model again, with other rounding.
    with fake_model_server(log_prob=lambda text, position: -1.01) as server:
        assert evaluate(server, tmp_path, *words) == 0
    assert "32 of 40 items from an earlier evaluation" in capsys.readouterr().err


def test_unknown_model_of_an_endpoint_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_model_server() as server:
        assert evaluate(server, tmp_path, "--tasks", "piqa", "--served-name", "other") == 1

    assert "fake-1" in capsys.readouterr().err


def test_state_that_cannot_be_written_is_reported_before_a_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    with fake_model_server() as server:
        for command in (["evaluate", "--tasks", "piqa"], ["probes", "--kinds", "safety_refusal"]):
            words = [command[0], server.url, *command[1:], "--state", str(file / "state")]
            assert main(words) == 1
            assert str(file / "state") in capsys.readouterr().err
        assert server.requests == []


def test_ctrl_c_names_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.benchmarks.commands.run_benchmarks", stopped)
    assert main(["evaluate", str(NANO), "--tasks", "piqa", "--state", str(tmp_path)]) == 130
    assert "finished items are kept" in capsys.readouterr().err


def test_table_has_error_interval_and_items_beside_each_score() -> None:
    score = TaskScore("v-1", "piqa", "acc_norm", 0.5, 0.05, 100, "", "", chance=0.5)

    _, line = table([score]).splitlines()

    assert line.split() == "piqa acc_norm 0.5000 0.0500 0.404 to 0.596 0.500 100 0".split()


def test_table_has_a_line_for_each_pass_at_k() -> None:
    name = "humaneval.samples-4.temperature-0.8"
    rates = {"pass@1": 0.5, "pass@2": 0.75}
    score = TaskScore("v-1", name, "pass@1", 0.5, 0.05, 100, "", "", breakdown=rates)

    _, line, more = table([score]).splitlines()

    assert line.split()[:3] == [name, "pass@1", "0.5000"]
    assert more.split() == ["pass@2", "0.7500"]


def test_code_task_without_a_sandbox_asks_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROGRAM_VARIABLE, str(tmp_path / "absent"))
    with fake_model_server() as server:
        assert evaluate(server, tmp_path, "--tasks", "mbpp", "--limit", "4") == 1
        assert server.requests == []

    (line,) = capsys.readouterr().err.splitlines()
    assert "bubblewrap" in line
