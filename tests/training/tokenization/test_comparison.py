"""Figures of a comparison against values computed by hand."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.errors import refused
from training.errors import ConfigError
from training.tokenization.comparison import COLUMNS, Figures, measure, rows, table, total
from training.tokenization.text_tokenizer import Piece


class Pairs:
    """Tokenizer with two characters per token; pairs with a question mark are unknown."""

    name = "pairs"
    vocabulary_size = 1234

    def encode(self, text: str) -> list[int]:
        return [0 if "?" in text[i : i + 2] else 1 for i in range(0, len(text), 2)]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join("??" if i == 0 else "ab" for i in ids)

    def unknowns(self, ids: Sequence[int]) -> int:
        return list(ids).count(0)

    def pieces(self, text: str) -> list[Piece]:
        raise NotImplementedError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"x" * 2500)
    return path


def test_figures_are_sums_over_all_texts(file: Path) -> None:
    figures = measure(Pairs(), file, ["abab", "ab ?é", "ab"])
    assert figures == Figures("pairs", 1234, 2500, 3, 2, 4 + 6 + 2, 4, 2 + 3 + 1, 1)
    assert figures.bytes_per_token == 2.0
    assert figures.tokens_per_word == 1.5
    assert figures.unknown_share == pytest.approx(1 / 6)
    assert figures.exact_share == pytest.approx(2 / 3)


def test_total_of_parts_equals_the_figures_of_all_texts(file: Path) -> None:
    texts = ["abab", "ab ?é", "ab"]
    parts = [measure(Pairs(), file, texts[:1]), measure(Pairs(), file, texts[1:])]
    assert total(parts) == measure(Pairs(), file, texts)


def test_tokens_per_word_is_undefined_without_words(file: Path) -> None:
    figures = measure(Pairs(), file, ["    "])
    assert figures.tokens_per_word is None
    assert rows([figures])[0][4] == "–"


def test_measurement_without_texts_is_refused(file: Path) -> None:
    with refused(ConfigError, field="texts", reason="EMPTY") as caught:
        measure(Pairs(), file, [])
    assert "pairs" in caught.value.text  # name of the tokenizer


def test_comparison_table_is_aligned(file: Path) -> None:
    lines = table([measure(Pairs(), file, ["abab ?"])]).splitlines()
    assert lines[0].split() == " ".join(COLUMNS).split()
    assert lines[1].split() == ["pairs", "1,234", "2", "kB", "2.00", "1.50", "33.33%", "0.0%"]
    assert len({len(line) for line in lines}) == 1
