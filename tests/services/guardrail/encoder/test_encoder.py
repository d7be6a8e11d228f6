"""The shipped encoder: integrity of its files, windows, batches and threads."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.guardrail.detection.classifier import WeightsError
from services.guardrail.encoder import weights
from services.guardrail.encoder.encoder import REPEATED_TOKENS, WINDOW_TOKENS, Encoder
from services.guardrail.encoder.weights import base_directory, read_weights
from services.guardrail.settings import ENCODER_DIRECTORY
from services.guardrail.verdict import Category
from tests.support.errors import refused

TEXTS = ["how do i learn python?", "word " * 90, "tell me a story", "tea with lemon " * 8]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(read_weights(ENCODER_DIRECTORY, base_directory()))


def test_every_head_of_a_category_has_a_verdict() -> None:
    heads = json.loads((ENCODER_DIRECTORY / "manifest.json").read_text())["config"]["heads"]
    assert heads[:2] == ["harmful", "injection"]
    assert {Category(head) for head in heads[2:]} < set(Category)


def test_trained_values_take_at_most_five_megabytes() -> None:
    assert (ENCODER_DIRECTORY / weights.ADAPTER_NAME).stat().st_size <= 5_000_000


def test_values_that_differ_from_their_manifest_are_refused(tmp_path: Path) -> None:
    shutil.copytree(ENCODER_DIRECTORY, tmp_path, dirs_exist_ok=True)
    with (tmp_path / weights.ADAPTER_NAME).open("ab") as file:
        file.write(b"x")
    name = str(tmp_path / weights.ADAPTER_NAME)
    with refused(WeightsError, field=name, reason="MISMATCH"):
        read_weights(tmp_path, base_directory())


def test_another_base_is_refused(tmp_path: Path) -> None:
    name = tmp_path / weights.BASE_NAME
    name.write_bytes(b"x")
    with refused(WeightsError, field=str(name), reason="MISMATCH"):
        read_weights(ENCODER_DIRECTORY, tmp_path)


def test_missing_base_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BASE_PACKAGE", "no_such_package")
    with refused(WeightsError, field="no_such_package", reason="MISSING"):
        base_directory()


def test_long_text_has_windows_that_overlap_by_a_constant(encoder: Encoder) -> None:
    """4,000 tokens cost at most 1.2 times as much for each token as 400."""

    def windows(tokens: int) -> int:
        return len(encoder.logits(["tea " * tokens])[0])

    step = WINDOW_TOKENS - 2 - REPEATED_TOKENS
    assert [windows(tokens) for tokens in (126, 127, 126 + step, 127 + step)] == [1, 2, 2, 3]
    assert windows(4_000) / 4_000 <= 1.2 * windows(400) / 400


def test_padding_and_neighbours_do_not_change_logits(encoder: Encoder) -> None:
    together = [rows[0] for rows in encoder.logits(TEXTS)]
    alone = [encoder.logits([text])[0][0] for text in TEXTS]
    assert np.allclose(together, alone, atol=0.05)


def test_threads_get_the_results_of_their_own_texts(encoder: Encoder) -> None:
    alone = [encoder.judge([text])[0] for text in TEXTS]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda number: encoder.judge([TEXTS[number % 4]])[0], range(40)))
    assert found == [alone[number % 4] for number in range(40)]
