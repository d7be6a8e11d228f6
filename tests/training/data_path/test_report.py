"""Comparison of tokenizers on the report page of a build."""

import re
from pathlib import Path

import pytest

from tests.training.data_path.corpora import article, build_quietly, page, settings, write_table
from training.data_path import report

GERMAN = (
    "Der Leuchtturm wurde im Jahr 1850 gebaut und steht seitdem auf der kleinen Insel im Meer. "
)


def report_of(folder: Path, shards: dict[str, object]) -> str:
    """Build a corpus in two languages, 140 kB of text, and return its report page."""
    rows = [page(number) | {"text": article(number) * 8} for number in range(12)]
    rows += [
        {"text": f"Bericht {number}. {GERMAN * 100}", "url": f"https://example.org/de/{number}"}
        for number in range(4)
    ]
    write_table(folder / "in" / "a.jsonl", rows)
    source = {"name": "web", "folder": "in"}
    config = settings(
        folder,
        source,
        language={"keep": ["en", "de"]},
        near_duplicates=False,
        shards=shards,
    )
    build_quietly(config, folder / "corpus")
    return (folder / "corpus" / "result" / "report.html").read_text()


def names_by_language(page_text: str) -> dict[str, list[str]]:
    """Return the tokenizers of each table."""
    part = page_text.partition("<h2>Tokenizers</h2>")[2].partition("<h2>")[0]
    tables = re.findall(r"<h3>(\w+), .*?</h3>(.*?)</table>", part, re.DOTALL)
    return {language: re.findall(r"<tr><td>([^<]*)</td>", table) for language, table in tables}


def test_tokenizer_of_the_corpus_is_compared_by_language(tmp_path: Path) -> None:
    page_text = report_of(tmp_path, {"vocabulary": 400})

    learned = ["words-400", "words-and-marks-400", "characters-400"]
    expected = [*learned, "tokenizer", "o200k_base", "cl100k_base"]
    assert names_by_language(page_text) == dict.fromkeys(("all", "en", "de"), expected)


def test_documents_without_shards_have_published_encodings_only(tmp_path: Path) -> None:
    page_text = report_of(tmp_path, {})

    expected = ["o200k_base", "cl100k_base"]
    assert names_by_language(page_text) == dict.fromkeys(("all", "en", "de"), expected)


@pytest.mark.parametrize("reason", ["few texts", "no rank files"])
def test_report_without_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    if reason == "few texts":
        monkeypatch.setattr(report, "MIN_SAMPLE_BYTES", 10**9)
    else:
        monkeypatch.setattr(report, "ENCODINGS", ())

    assert "Tokenizers" not in report_of(tmp_path, {})
