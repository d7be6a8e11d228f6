"""The command `thumbwheel evaluate probes`."""

import json
from pathlib import Path

import pytest

from tests.support.model_server import KEY, FakeModelServer, fake_model_server
from training.__main__ import main
from training.artifacts.scores import NOT_STORED, ScoreStore
from training.probes.items import Kind
from training.verification.sandbox.bubblewrap import PROGRAM_VARIABLE


def probe(server: FakeModelServer, state: Path, *arguments: str) -> int:
    key = state / "key"
    key.write_text(KEY)
    return main(["probes", server.url, "--state", str(state), "--key-file", str(key), *arguments])


def test_url_is_measured_and_stored_with_its_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_model_server(answer=lambda prompt: "I can't help with that.") as server:
        assert probe(server, tmp_path, "--kinds", "safety_over_refusal,safety_refusal") == 0
    scores = ScoreStore(tmp_path / "loop").scores("fake-1")
    assert (scores[Kind.REFUSAL].value, scores[Kind.OVER_REFUSAL].value) == (1.0, 0.0)
    sent = [body for path, body in server.requests if path == "/v1/chat/completions"]
    assert len(sent) == 128 and all(body["temperature"] == 0 for body in sent)
    answers = tmp_path / "loop" / "evaluations" / "fake-1" / "probes.answers.jsonl"
    assert json.loads(answers.read_text().splitlines()[0])["text"] == "I can't help with that."
    assert "safety_refusal" in capsys.readouterr().out


def test_endpoint_that_stops_in_the_middle_is_reported_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_model_server(fail_after=40) as server:
        assert probe(server, tmp_path, "--kinds", "safety_refusal") == 1
        assert "HTTP 500" in capsys.readouterr().err
        assert ScoreStore(tmp_path / "loop").scores("fake-1") == {}

        server.requests.clear()
        server.fail_after = None
        assert probe(server, tmp_path, "--kinds", "safety_refusal") == 0
    # The first 32 answers were kept.
    asked = [path for path, _ in server.requests].count("/v1/chat/completions")
    assert asked == 64 - 32


def test_another_model_of_the_same_name_answers_all_questions(tmp_path: Path) -> None:
    words = ("--kinds", "safety_refusal", "--version", "v-1")
    with fake_model_server(fail_after=42) as server:
        assert probe(server, tmp_path, *words) == 1
    with fake_model_server(log_prob=lambda text, position: -1.1) as server:
        assert probe(server, tmp_path, *words) == 0
        assert [path for path, _ in server.requests].count("/v1/chat/completions") == 64


def test_smaller_part_is_not_stored_and_other_kinds_keep_their_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "loop" / "evaluations" / "fake-1" / "probes.answers.jsonl"
    sizes = []
    with fake_model_server() as server:
        for kind, limit in (("refusal", "9"), ("refusal", "4"), ("over_refusal", "9")):
            assert probe(server, tmp_path, "--kinds", f"safety_{kind}", "--limit", limit) == 0
            sizes.append(
                (len(answers.read_text().splitlines()), NOT_STORED in capsys.readouterr().err)
            )
    assert sizes == [(9, False), (9, True), (18, False)]


def test_name_with_scores_of_another_model_is_refused_before_a_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, words = ScoreStore(tmp_path / "loop"), ("--kinds", "safety_refusal", "--limit", "4")
    with fake_model_server() as server:
        assert probe(server, tmp_path, *words) == 0
    first = store.scores("fake-1")
    with fake_model_server(model="other") as server:
        assert probe(server, tmp_path, *words, "--version", "fake-1") == 1
        assert "--version" in capsys.readouterr().err
        assert "/v1/chat/completions" not in [path for path, _ in server.requests]
        assert probe(server, tmp_path, *words) == 0
    assert store.scores("fake-1") == first
    assert store.scores("other").keys() == first.keys()


def test_missing_sandbox_names_the_kinds_that_need_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PROGRAM_VARIABLE, str(tmp_path / "absent"))
    with fake_model_server() as server:
        assert probe(server, tmp_path, "--kinds", "safety_refusal,knowledge") == 1
    assert "--kinds safety_refusal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--kinds", "flattery"], ("kinds", "flattery", "sycophancy_flattery")),
        (["--kinds", ","], ("kinds", "safety_refusal")),
        (["--kinds", "safety_refusal", "--limit", "1"], ("limit", "1 items")),
    ],
)
def test_bad_input_is_one_line_with_field_and_value(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: tuple[str, ...],
) -> None:
    with fake_model_server() as server:
        assert probe(server, tmp_path, *arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert all(word in line for word in words), line
