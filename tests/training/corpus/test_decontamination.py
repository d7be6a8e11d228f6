"""Decontamination: shared n-grams drop a document, common ones and chance do not."""

import random
from pathlib import Path

import pytest

from training.corpus.decontamination import (
    META,
    DecontaminationConfig,
    Decontaminator,
    EvaluationItem,
    build_index,
)
from training.corpus.document import CorpusError, Document, Origin, Stage, Verdict

LONG = (
    "A farmer sells seven baskets of ripe apples to the baker, who bakes three pies and gives"
    " the rest of the fruit to a school nearby."
)
SHORT = "Which river flows past the castle of Amboise?"
TINY = "Who wrote it?"
BEFORE, AFTER = "Some page begins like this and goes on. ", " Other sentences follow on the page."


def document(text: str) -> Document:
    return Document(Origin("0" * 32), text)


def item(*texts: str, number: int = 0) -> EvaluationItem:
    return EvaluationItem("quiz", number, texts)


def step(folder: Path, *items: EvaluationItem, **settings: int) -> Decontaminator:
    return Decontaminator(build_index(items, folder, DecontaminationConfig(**settings)))


@pytest.mark.parametrize("text", [LONG, SHORT, LONG.upper(), LONG.replace("seven", " Seven, ")])
def test_document_with_an_item_is_dropped(tmp_path: Path, text: str) -> None:
    decontaminate = step(tmp_path, item(LONG), item(SHORT, number=1))
    verdict = decontaminate(document(BEFORE + text + AFTER))
    assert isinstance(verdict, Verdict)
    assert verdict.stage is Stage.DECONTAMINATION
    assert verdict.value.startswith(f"quiz {int(text is SHORT)} ")
    assert not {"farmer", "river"} & set(verdict.value.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "An unrelated page about rivers, castles and farmers.",
        " ".join(LONG.split()[:12]) + " differ",
        " ".join(SHORT.split()[1:]),
        TINY,
    ],
)
def test_document_without_an_item_is_kept(tmp_path: Path, text: str) -> None:
    decontaminate = step(tmp_path, item(LONG), item(SHORT), item(TINY))
    clean = document(BEFORE + text + AFTER)
    assert decontaminate(clean) is clean


def test_ngrams_of_many_items_are_left_out(tmp_path: Path) -> None:
    ends = "red green blue white black brown pink grey gold teal cyan".split()
    items = [item(f"{LONG} It is {end} and it was {end}.", number=n) for n, end in enumerate(ends)]
    page = document(BEFORE + LONG + AFTER)
    assert step(tmp_path, *items)(page) is page
    assert isinstance(step(tmp_path, *items[:10])(page), Verdict)
    own = step(tmp_path, *items)(document(f"{LONG} It is teal and it was teal."))
    assert isinstance(own, Verdict)
    assert own.value.startswith("quiz 9 ")


@pytest.mark.parametrize("text", ["1 2 3 4 5 6 7 8 9 10 11 12 13 14", "a b c " * 6, "very " * 20])
def test_repeated_words_and_numbers_are_left_out(tmp_path: Path, text: str) -> None:
    page = document(f"{BEFORE}{text}{AFTER}")
    assert step(tmp_path, item(text))(page) is page


def test_item_with_most_ngrams_is_named(tmp_path: Path) -> None:
    words = LONG.split()
    beginning, whole = item(" ".join(words[:14])), item(LONG, number=1)
    verdict = step(tmp_path, whole, beginning)(document(LONG))
    assert isinstance(verdict, Verdict)
    assert verdict.value == f"quiz 1 ({len(words) - 12} n-grams in common)"


def test_other_settings(tmp_path: Path) -> None:
    page = document(" ".join(LONG.split()[2:8]))
    assert isinstance(step(tmp_path, item(LONG), ngram=6, least_words=3)(page), Verdict)
    assert isinstance(step(tmp_path, item(TINY), least_words=3)(document(TINY)), Verdict)


def test_no_items(tmp_path: Path) -> None:
    page = document(LONG)
    assert step(tmp_path)(page) is page


def test_index_is_built_once_for_equal_items(tmp_path: Path) -> None:
    index = build_index([item(LONG)], tmp_path)
    before = (index / META).stat().st_mtime_ns
    assert build_index([item(LONG)], tmp_path) == index
    assert (index / META).stat().st_mtime_ns == before
    others = {
        build_index([item(SHORT)], tmp_path),
        build_index([item(LONG, number=1)], tmp_path),
        build_index([item(LONG)], tmp_path, DecontaminationConfig(ngram=12)),
    }
    assert len(others | {index}) == 4
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in others | {index}}


def test_other_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError) as caught:
        Decontaminator(tmp_path)
    assert caught.value.field == "decontamination.index"


@pytest.mark.parametrize(
    ("field", "value"), [("ngram", 0), ("ngram", 65), ("least_words", 14), ("most_items", 0)]
)
def test_settings_out_of_range_are_refused(field: str, value: int) -> None:
    with pytest.raises(CorpusError) as caught:
        DecontaminationConfig(**{field: value})
    assert caught.value.field == f"decontamination.{field}"
    assert caught.value.limit


@pytest.mark.parametrize("pages", [1000, pytest.param(10_000, marks=pytest.mark.long)])
def test_chance_drops_no_document(tmp_path: Path, pages: int) -> None:
    """Documents of the items' own words, in random order."""
    generator = random.Random(4)
    vocabulary = sorted({*LONG.split(), *SHORT.split(), *TINY.split(), *AFTER.split()})
    items = [item(" ".join(generator.choices(vocabulary, k=20)), number=n) for n in range(500)]
    decontaminate = step(tmp_path, *items)
    clean = [document(" ".join(generator.choices(vocabulary, k=40))) for _ in range(pages)]
    assert all(decontaminate(page) is page for page in clean)
