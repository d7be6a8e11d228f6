"""The client of model servers."""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.support.errors import refused
from tests.support.model_server import KEY, FakeModelServer, fake_model_server
from tests.support.tokenizers_with_markers import write_tokenizer
from training.artifacts.manifest import write_manifest
from training.benchmarks.models import ModelChoice, opened
from training.errors import ConfigError
from training.serving.connection import EndpointError, RefusedError
from training.serving.endpoint import MAX_PROMPTS, Completion, Endpoint, TokenizerMismatchError
from training.serving.predictor import serving
from training.tokenization.byte_pairs import bytes_by_letter

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def server() -> Iterator[FakeModelServer]:
    with fake_model_server() as state:
        yield state


@pytest.fixture
def endpoint(server: FakeModelServer) -> Iterator[Endpoint]:
    with Endpoint(f"{server.url}/v1/", "fake-1", KEY) as opened:
        yield opened


def test_completions_keep_the_order_of_the_prompts(
    server: FakeModelServer, endpoint: Endpoint
) -> None:
    server.answer = lambda prompt: f"{prompt} and more. Next"

    found = endpoint.complete([f"text {n}" for n in range(20)], max_tokens=4, stop=["."])

    assert found == [
        Completion(f"text {n} and more", "stop", len(f"text {n} and more")) for n in range(20)
    ]
    assert {path for path, _ in server.requests} == {"/v1/completions"}


def test_seed_differs_by_prompt(server: FakeModelServer, endpoint: Endpoint) -> None:
    endpoint.complete(["one", "two"], max_tokens=4, temperature=1.0, seed=5)

    assert sorted(body["seed"] for _, body in server.requests) == [5, 6]


def test_log_probs_are_those_of_the_tokens_after_the_first(
    server: FakeModelServer, endpoint: Endpoint
) -> None:
    server.log_prob = lambda text, position: -0.5 if text[position] == "b" else -2.0

    (scores,) = endpoint.log_probs(["abc"])

    assert scores.token_ids == (97, 98, 99)
    assert scores.log_probs == (-0.5, -2.0)
    assert scores.greedy == (True, False)


def test_prompts_with_a_common_beginning_are_sent_in_one_request(
    server: FakeModelServer, endpoint: Endpoint
) -> None:
    server.log_prob = lambda text, position: -float(ord(text[position]))
    texts = ["a question: A", "a question: B", "another one: C", "another one: DE"]

    found = endpoint.log_probs([list(text.encode()) for text in texts])

    assert [scores.token_ids for scores in found] == [tuple(text.encode()) for text in texts]
    assert [scores.log_probs[-1] for scores in found] == [-65.0, -66.0, -67.0, -69.0]
    assert sorted(len(body["prompt"]) for _, body in server.requests) == [2, 2]


def test_many_similar_prompts_are_divided(server: FakeModelServer, endpoint: Endpoint) -> None:
    found = endpoint.log_probs([[1, 2, 3, n] for n in range(MAX_PROMPTS + 1)])

    assert [scores.token_ids[-1] for scores in found] == list(range(MAX_PROMPTS + 1))
    assert sorted(len(body["prompt"]) for _, body in server.requests) == [1, MAX_PROMPTS]


def test_server_without_log_probs_of_prompts_is_refused(
    server: FakeModelServer, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FakeModelServer,
        "_complete",
        lambda self, body: (200, {"choices": [{"index": 0, "text": ""}]}),
    )

    with refused(EndpointError, field="logprobs", limit="3 log-probs"):
        endpoint.log_probs([[1, 2, 3]])


def test_prompt_beyond_the_window_is_refused(server: FakeModelServer, endpoint: Endpoint) -> None:
    server.window = 4

    with refused(RefusedError, field="prompt"):
        endpoint.complete(["short", "longer"], max_tokens=1)


def test_wrong_key_is_reported(server: FakeModelServer) -> None:
    with (
        Endpoint(server.url, "fake-1", "another-key") as endpoint,
        refused(EndpointError, field="key", reason="UNAUTHENTICATED"),
    ):
        endpoint.models()


def test_unreachable_server_is_reported(
    server: FakeModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.serving.connection.BACKOFF_SECONDS", 0.0)
    with (
        Endpoint("http://127.0.0.1:1", "fake-1", KEY) as endpoint,
        refused(EndpointError, field="endpoint", limit="5 attempts") as raised,
    ):
        endpoint.models()
    assert "no connection" in str(raised.value) and "Error" not in str(raised.value)


def test_text_survives_tokenize_and_detokenize(endpoint: Endpoint) -> None:
    assert endpoint.detokenize(endpoint.tokenize("wörds")) == "wörds"


def test_chat_returns_the_message(server: FakeModelServer, endpoint: Endpoint) -> None:
    server.answer = lambda prompt: prompt.upper()

    (found,) = endpoint.chat([[{"role": "user", "content": "hi"}]], max_tokens=2)

    assert found.text == "HI"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Return the tokenizer of the fake server, whose tokens are bytes."""
    tokenizer = Tokenizer(models.BPE(vocab=bytes_by_letter(), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return write_tokenizer(tmp_path / "model", tokenizer)


def test_equal_tokenizers_pass(endpoint: Endpoint, directory: Path) -> None:
    assert endpoint.check_tokenizer(directory)


def test_another_tokenizer_is_refused_with_its_first_difference(
    endpoint: Endpoint, directory: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.normalizer = normalizers.Lowercase()
    write_tokenizer(directory, tokenizer)
    with refused(TokenizerMismatchError, field="tokenizer", reason="MISMATCH", limit="id 104"):
        endpoint.check_tokenizer(directory)


def test_a_server_without_tokenize_is_not_compared(
    server: FakeModelServer, endpoint: Endpoint, directory: Path
) -> None:
    server.paths_missing = {"/tokenize"}
    assert not endpoint.check_tokenizer(directory)
    server.fail_after = 0
    with refused(EndpointError, field="endpoint"):
        endpoint.check_tokenizer(directory)


def test_an_endpoint_with_the_name_of_a_version_must_have_its_tokenizer(
    server: FakeModelServer, directory: Path, tmp_path: Path
) -> None:
    choice = ModelChoice(server.url, tmp_path, key=KEY)
    with opened(choice) as model:
        assert model.version == "fake-1"
    shutil.copytree(directory, tmp_path / "models" / "fake-1")
    write_manifest(tmp_path / "models" / "fake-1", kind="model", version="fake-1")
    with opened(choice) as model:
        assert model.version == "fake-1"
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.save(str(tmp_path / "models" / "fake-1" / "tokenizer.json"))
    with refused(TokenizerMismatchError, field="tokenizer"), opened(choice):
        pass


def test_directory_without_manifest_is_refused(tmp_path: Path) -> None:
    with refused(ConfigError, field="model", reason="NOT_A_MODEL"), serving(tmp_path):
        pass


@pytest.mark.long
def test_directory_is_served() -> None:
    """Start the real model server with nano's first version."""
    with serving(ROOT / "models" / "nano") as endpoint:
        (scores,) = endpoint.log_probs(["What is"])

        assert endpoint.models() == {"nano-0": 256}
        assert endpoint.check_tokenizer(ROOT / "models" / "nano")
    assert len(scores.log_probs) == len(scores.token_ids) - 1
    assert all(-math.inf < value < 0 for value in scores.log_probs)
