"""Texts with listed words are dropped with a count, by language; the words never appear."""

from collections.abc import Callable
from pathlib import Path

import pytest

from training.corpus.document import CorpusError, Document, Stage, Verdict
from training.corpus.quality.content import ContentConfig, WordList, content_step

Make = Callable[..., Document]


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    (tmp_path / "en").write_text("darn\nheck no\nf#ck\n\n")
    (tmp_path / "zh").write_text("坏话\n性\n")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "language", "found"),
    [
        ("Oh, DARN it.", "en", 1),
        ("darn darn_it darn-it undarned", "en", 2),
        ("heck no, heck yes", "en", 1),
        ("oh f#ck!", "en", 1),
        ("what the af#ckb", "en", 0),
        ("darn", "de", 0),
        ("他说坏话了", "zh", 1),
        ("性别", "zh", 0),
    ],
)
def test_listed_words_are_counted(
    document: Make, lists: Path, text: str, language: str, found: int
) -> None:
    result = content_step(ContentConfig(str(lists)))(document(text, language))
    if found:
        assert result == Verdict(Stage.CONTENT, "listed words", f"{found} (at most 0)")
    else:
        assert result == document(text, language)


def test_tolerated_number_is_a_setting(document: Make, lists: Path) -> None:
    step = content_step(ContentConfig(str(lists), most=1))
    assert step(document("darn")) == document("darn")
    assert isinstance(step(document("darn darn")), Verdict)


def test_entries_in_upper_case_match() -> None:
    assert WordList(frozenset({"Darn"})).count("DARN") == 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda folder: ContentConfig(most=-1), "content.most"),
        (lambda folder: content_step(ContentConfig(str(folder / "missing"))), "content.lists"),
    ],
)
def test_wrong_settings_are_refused(
    lists: Path, make: Callable[[Path], object], field: str
) -> None:
    with pytest.raises(CorpusError) as raised:
        make(lists)
    assert raised.value.field == field


def test_unreadable_list_is_refused(lists: Path) -> None:
    (lists / "fr").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CorpusError) as raised:
        content_step(ContentConfig(str(lists)))
    assert raised.value.field == "content.lists"
