"""Perplexity and bits per byte: every token counts once, and directory and server agree."""

import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.errors import refused
from tests.support.model_server import KEY, fake_model_server
from training.__main__ import parser
from training.artifacts.scores import ScoreError, ScoreStore
from training.benchmarks.local_model import LocalModel
from training.benchmarks.perplexity import (
    Document,
    EndpointScorer,
    Windows,
    choose_windows,
    measure,
    ratio,
    read_documents,
)
from training.benchmarks.perplexity_command import figure_text
from training.data.corpus import TextError
from training.errors import ConfigError
from training.figures import Estimate
from training.serving.predictor import serving

NANO = Path(__file__).resolve().parents[3] / "models" / "nano"
WORDS = "A boy went to the market with a basket. He bought bread, “figs” and 12 eggs. "
TEXTS = [Document("short", WORDS), Document("long", WORDS * 12), Document("one", "é")]


class Bytes:
    """A model of bytes whose log-probs depend on position in the row."""

    window_tokens = 50

    def __init__(self) -> None:
        self.rows: list[Sequence[int]] = []

    def start_id(self) -> int:
        return 0

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def log_probs(self, rows: Sequence[Sequence[int]]) -> list[Sequence[float]]:
        self.rows += rows
        return [[-1.0 / (1 + place) for place in range(len(row) - 1)] for row in rows]


@pytest.mark.parametrize("count", [2, 9, 10, 11, 37, 100])
@pytest.mark.parametrize(("tokens", "stride"), [(10, 1), (10, 5), (10, 9), (2, 1)])
def test_each_token_counts_once_with_at_least_the_promised_context(
    count: int, tokens: int, stride: int
) -> None:
    counted = []
    for start, stop, first in Windows(tokens, stride).spans(count):
        assert stop - start <= tokens
        for position in range(first, stop):
            counted.append(position)
            assert position - start >= min(position, tokens - stride)
    assert counted == list(range(1, count))


def test_text_that_fits_has_one_window() -> None:
    model = Bytes()
    score = measure(model, [Document("a", "abc")], Windows(4, 2))

    assert model.rows == [[0, *b"abc"]]
    assert (score.tokens, score.bytes) == (3, 3)
    assert math.isclose(score.nats_per_token.value, (1 + 1 / 2 + 1 / 3) / 3)
    assert math.isclose(score.perplexity.value, math.exp((1 + 1 / 2 + 1 / 3) / 3))
    assert math.isclose(score.bits_per_byte.value, (1 + 1 / 2 + 1 / 3) / 3 / math.log(2))


def test_texts_keep_their_own_tokens_in_any_batch() -> None:
    # More windows than a batch, over the limits of documents.
    documents = [Document(str(size), "é" * size) for size in (1, 40, 200, 3)]
    together = measure(Bytes(), documents, Windows(8, 4))
    apart = [measure(Bytes(), [one], Windows(8, 4)).documents[0] for one in documents]

    assert list(together.documents) == apart
    assert [one.bytes for one in apart] == [2, 80, 400, 6]


def test_ratio_and_its_error_follow_the_definition() -> None:
    parts = [(3.0, 2), (1.0, 4), (8.0, 4)]
    estimate = ratio(parts)
    residuals = [y - 1.2 * x for y, x in parts]

    assert math.isclose(estimate.value, 1.2)
    assert math.isclose(estimate.error, math.sqrt(sum(r * r for r in residuals) * 3 / 2) / 10)
    # The error of equal weights is that of a mean.
    assert math.isclose(ratio([(1.0, 1), (3.0, 1)]).error, 1.0)
    assert ratio([(1.0, 1)]).error == math.inf


@pytest.fixture(scope="module")
def nano() -> LocalModel:
    return LocalModel(NANO)


def test_directory_gives_the_log_probs_of_the_whole_text(nano: LocalModel) -> None:
    documents = TEXTS[::2]
    score = measure(nano, documents, Windows(200, 100))

    for document, found in zip(documents, score.documents, strict=True):
        ids = [1, *nano.encode(document.text)]  # 1 is <|begin|>
        with torch.no_grad():
            decoder = nano._backbone.decoder
            logits_TV = decoder.logits(decoder(torch.tensor([ids])))[0]
        expected = -sum(
            float(logits_TV[place].log_softmax(-1)[token]) for place, token in enumerate(ids[1:])
        )
        assert math.isclose(found.nats, expected, rel_tol=1e-5)
        assert found.tokens == len(ids) - 1


def test_default_window_leaves_a_token_for_an_answer(nano: LocalModel) -> None:
    assert choose_windows(nano, None, None) == Windows(255, 127)
    with refused(ConfigError, field="window", reason="TOO_LARGE", limit="at most 255"):
        choose_windows(nano, 256, None)


@pytest.mark.parametrize(("tokens", "stride", "field"), [(1, 1, "window"), (9, 9, "stride")])
def test_window_without_context_is_refused(tokens: int, stride: int, field: str) -> None:
    with refused(ConfigError, field=field, reason="OUT_OF_RANGE"):
        Windows(tokens, stride)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "EMPTY"), (b"\xff\xfe", "NOT_UTF8")], ids=["empty", "bytes"]
)
def test_unreadable_text_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with refused(TextError, field="a.txt", reason=reason):
        read_documents([tmp_path / "a.txt"])


def test_too_long_texts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.benchmarks.perplexity.MAX_BYTES", 5)
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("abc")
    read_documents([tmp_path / "a.txt"])
    with refused(ConfigError, field="text", reason="TOO_LARGE", limit="at most 5 bytes"):
        read_documents([tmp_path])


def test_files_without_texts_are_refused(tmp_path: Path) -> None:
    no_rows = pa.table({"text": pa.array([], pa.string())})
    pq.write_table(no_rows, tmp_path / "a.parquet")
    with refused(ConfigError, field="text", reason="EMPTY"):
        read_documents([tmp_path])
    (tmp_path / "b.jsonl").touch()
    with refused(TextError, field="b.jsonl", reason="EMPTY"):
        read_documents([tmp_path])


def test_repeated_texts_have_names_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a"}\n')
    names = [document.item for document in read_documents([tmp_path])]
    assert len(set(names)) == 3
    assert names[2] == f"{names[0]}-2"


def run(*words: str) -> int:
    options = parser().parse_args(["perplexity", *words])
    return int(options.command(options))


def test_command_stores_bits_per_byte_of_an_endpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "a.jsonl").write_text('{"text": "ab"}\n{"text": "cdef"}\n')
    with fake_model_server() as server:
        server.log_prob = lambda text, position: -math.log(2) * len(text)
        words = [server.url, "--text", str(tmp_path / "a.jsonl"), "--state", str(tmp_path)]
        assert run(*words, "--key-file", str(tmp_path / "key"), "--store-as", "bpb.test") == 0

    store = ScoreStore(tmp_path / "loop")
    score = store.scores("fake-1")["bpb.test"]
    # With the start token the texts have 3 and 5 bytes, and each byte costs as many bits.
    assert math.isclose(score.value, (2 * 3 + 4 * 5) / 6)
    assert (score.items, score.metric, score.higher_is_better) == (2, "bits_per_byte", False)
    assert score.standard_error > 0
    items = store.items("fake-1", "bpb.test")
    assert [item.value for item in items] == pytest.approx([3, 5])
    assert [item.weight for item in items] == [2, 4]
    assert "6 bytes, 6 tokens" in capsys.readouterr().out


def test_name_with_scores_of_another_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{KEY}\n")
    (tmp_path / "a.jsonl").write_text('{"text": "ab"}\n{"text": "cdef"}\n')
    words = ["--text", str(tmp_path / "a.jsonl"), "--state", str(tmp_path)]
    words += ["--key-file", str(tmp_path / "key"), "--store-as", "bpb.test"]
    with fake_model_server() as server:
        assert run(server.url, *words) == 0
    with (
        fake_model_server(model="other") as server,
        refused(ScoreError, field="version", reason="CONFLICT"),
    ):
        run(server.url, *words, "--version", "fake-1")


def test_one_text_is_not_stored(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with refused(ConfigError, field="store_as", reason="TOO_FEW"):
        run(str(NANO), "--text", str(tmp_path / "a.txt"), "--store-as", "bpb")


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (751047.8423, 150213.6289, "750,000 ± 150,000"),
        (31.256, 2.345, "31.3 ± 2.3"),
        (2.5, 0.01, "2.5000 ± 0.0100"),
    ],
)
def test_figures_have_the_digits_of_their_error(value: float, error: float, text: str) -> None:
    assert figure_text(Estimate(value, error, 2, 2)) == text


@pytest.mark.parametrize("name", ["piqa", "a/b"])
def test_name_of_a_benchmark_or_no_name_is_refused_before_the_measurement(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n{"text": "abcde"}\n')
    with refused(ConfigError, field="store_as", reason="CONFLICT"):
        run(str(NANO), "--text", str(tmp_path / "a.jsonl"), "--store-as", name)


@pytest.mark.parametrize(
    ("words", "field"),
    [(["absent-1"], "model"), ([str(NANO), "--served-name", "a"], "served_name")],
)
def test_impossible_model_is_refused(tmp_path: Path, words: list[str], field: str) -> None:
    (tmp_path / "a.txt").write_text("abc")
    with refused(ValueError, field=field):
        run(*words, "--text", str(tmp_path / "a.txt"), "--state", str(tmp_path))


@pytest.mark.long
def test_directory_agrees_with_transformers(nano: LocalModel) -> None:
    from transformers import AutoModelForCausalLM

    oracle = AutoModelForCausalLM.from_pretrained(NANO, dtype=torch.float32)
    windows = Windows(64, 20)
    score = measure(nano, TEXTS, windows)

    for document, found in zip(TEXTS, score.documents, strict=True):
        ids = torch.tensor([1, *nano.encode(document.text)])
        nats = 0.0
        for start, stop, first in windows.spans(len(ids)):
            # Its loss is the mean over the labels that are not -100.
            labels = ids[start:stop].clone()
            labels[: first - start] = -100
            with torch.no_grad():
                loss = oracle(ids[None, start:stop], labels=labels[None]).loss
            nats += float(loss) * (stop - first)
        assert math.isclose(found.nats, nats, rel_tol=1e-5)


@pytest.mark.long
def test_directory_agrees_with_the_model_server(nano: LocalModel) -> None:
    with serving(NANO) as endpoint:
        window = endpoint.models()[endpoint.model]
        remote = EndpointScorer(endpoint, window)
        windows = choose_windows(remote, None, None)
        served = measure(remote, TEXTS, windows)
    local = measure(nano, TEXTS, choose_windows(nano, None, None))

    assert windows == Windows(255, 127)
    for one, other in zip(local.documents, served.documents, strict=True):
        assert (one.item, one.tokens, one.bytes) == (other.item, other.tokens, other.bytes)
        assert math.isclose(one.nats, other.nats, rel_tol=1e-4)
