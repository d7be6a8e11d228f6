"""`thumbwheel data tokenizers`: figures of learned, given and published tokenizers by language."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.errors import refused
from tests.support.page_encodings import NANO
from training.corpus.__main__ import main
from training.corpus.block_sample import Block
from training.corpus.document import CorpusError
from training.corpus.tokenizers import ALL, compare, read_documents
from training.tokenization.published import open_published

ENGLISH = "The library of the town opens at nine, and people read books there in the morning. "
RUSSIAN = "Городская библиотека открывается в девять часов, и люди читают там книги по утрам. "


def words(text: str, number: int) -> str:
    """Return about 4 kB of text that differs by number."""
    return f"{number}. {text}" + text * (3800 // len(text))


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    rows = [{"text": words(ENGLISH, number)} for number in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "english.parquet")
    lines = [json.dumps({"text": words(RUSSIAN, number)}) for number in range(60)]
    (folder / "russian.jsonl").write_text("\n".join([*lines, "no JSON"]))
    (folder / "page.html").write_text("<p>a page")
    return folder


def test_figures_are_printed_by_language_and_written_as_json(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "figures.json"
    options = ["--vocabulary", "400,300", "--published", "r50k_base", "--tokenizer", str(NANO)]
    assert main(["tokenizers", str(texts), *options, "--json", str(out)]) == 0

    figures = json.loads(out.read_text())["languages"]
    assert set(figures) == {ALL, "en", "ru"}
    names = [one["name"] for one in figures[ALL]]
    assert names == [
        *("byte-pairs-300", "byte-pairs-400", "words-400", "words-and-marks-400"),
        *("characters-400", "r50k_base", "nano"),
    ]
    by_name = {language: {one["name"]: one for one in row} for language, row in figures.items()}
    english, russian = by_name["en"], by_name["ru"]
    for name in names:
        parts = [english[name], russian[name]]
        assert by_name[ALL][name]["tokens"] == sum(part["tokens"] for part in parts)
    assert english["r50k_base"]["bytes_per_token"] > 4
    assert russian["r50k_base"]["bytes_per_token"] < 2
    assert english["characters-400"]["bytes_per_token"] == 1
    assert english["words-400"]["tokens_per_word"] == 1
    assert english["words-400"]["unknown_share"] > 0  # the numbers of held-out texts
    assert english["byte-pairs-400"]["unknown_share"] == 0
    assert (english["r50k_base"]["exact_share"], english["words-400"]["exact_share"]) == (1, 0)

    printed = capsys.readouterr()
    assert all(title in printed.out for title in ("\nall: ", "\nen: ", "\nru: "))
    assert "2 of 122 records left out: 1 pages without extracted text, 1 unreadable" in printed.err


def test_texts_in_one_language_have_one_table(
    texts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = texts / "english.parquet"
    options = ["--vocabulary", "300", "--published", "r50k_base"]
    assert main(["tokenizers", str(only), *options]) == 0
    printed = capsys.readouterr().out
    assert printed.count("r50k_base") == 1
    assert "more languages" not in printed


def test_published_encoding_is_measured_with_its_own_ids() -> None:
    text = "I love machine learning!"
    blocks = [Block(1, text, "en")]
    path = NANO / "tokenizer.json"
    figures = compare(blocks, blocks, [], [(open_published("r50k_base"), path)], print)
    assert (figures.languages["en"][-1].tokens, figures.languages[ALL][-1].words) == (5, 4)


def test_too_few_texts_are_refused() -> None:
    with refused(CorpusError, field="texts", reason="EMPTY", limit="about 100 kB"):
        compare([Block(1, "a", "en")], [], [], [], print)


def test_missing_path_and_folder_without_texts_are_refused(tmp_path: Path) -> None:
    with refused(CorpusError, field="texts", reason="MISSING"):
        list(read_documents([tmp_path / "nothing"]))
    (tmp_path / "page.html").write_text("<p>a page")
    with refused(CorpusError, field="texts", reason="EMPTY"):
        list(read_documents([tmp_path]))
    (tmp_path / "LICENSE").write_text("a text")
    with refused(CorpusError, field="texts", reason="UNSUPPORTED") as caught:
        list(read_documents([tmp_path / "LICENSE"]))
    assert ".jsonl" in caught.value.text


@pytest.mark.parametrize(
    ("options", "named"),
    [(["--vocabulary", "200"], "262"), (["--sample-megabytes", "101"], "1 to 100")],
)
def test_impossible_options_are_named(
    texts: Path, capsys: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    assert main(["tokenizers", str(texts), "--published", "r50k_base", *options]) == 2
    assert named in capsys.readouterr().err
