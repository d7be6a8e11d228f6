"""Items of benchmarks and probes as input of the decontamination."""

import json
from collections import Counter
from pathlib import Path

import pytest

from training.benchmarks.tasks import BENCHMARKS
from training.corpus.__main__ import main
from training.corpus.decontamination import Decontaminator, EvaluationItem, build_index
from training.corpus.document import CorpusError, Document, Origin, Verdict
from training.corpus.duplicates.ngrams import word_hashes
from training.evaluation_items import evaluation_items, file_items
from training.probes.items import Kind, items_of

LEAST_WORDS = 8  # of a text that can be found
EVERY = 97
OWN_PAGES = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def all_items() -> list[EvaluationItem]:
    return list(evaluation_items())


def test_all_items_of_all_tasks_have_texts(all_items: list[EvaluationItem]) -> None:
    counts = Counter(item.task for item in all_items)
    expected = {name: task.items for name, task in BENCHMARKS.items()}
    assert counts == expected | {str(kind): len(items_of(kind)) for kind in Kind}
    assert all(any(text.strip() for text in item.texts) for item in all_items)
    assert len({(item.task, item.number) for item in all_items}) == len(all_items)


def test_planted_items_are_found(all_items: list[EvaluationItem], tmp_path: Path) -> None:
    longest = {item: max(item.texts, key=len) for item in all_items[::EVERY]}
    chosen = [item for item, text in longest.items() if len(word_hashes(text)) >= LEAST_WORDS]
    assert len(chosen) >= 500
    decontaminate = Decontaminator(build_index(chosen, tmp_path))
    pages = [
        paragraph
        for page in sorted(OWN_PAGES.rglob("*.md"))
        for paragraph in page.read_text().split("\n\n")
    ]
    for page in pages:
        clean = Document(Origin("0" * 32), page)
        assert decontaminate(clean) is clean
    named = 0
    for item, page in zip(chosen, pages, strict=False):
        verdict = decontaminate(Document(Origin("0" * 32), f"{page}\n{longest[item]}\n{page}"))
        assert isinstance(verdict, Verdict)
        assert verdict.value.startswith(f"{item.task} ")
        named += verdict.value.startswith(f"{item.task} {item.number} ")
    assert named >= 0.99 * len(chosen)  # some items of MMLU share a passage


def test_command_indexes_further_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.evaluation_items.evaluation_items", lambda: iter(()))
    prompts = tmp_path / "prompts.jsonl"
    text = "a held-out prompt about the weather in the mountains of the north"
    prompts.write_text(json.dumps({"text": text}) + "\n")
    assert main(["items", "--out", str(tmp_path / "out"), "--texts", str(prompts)]) == 0
    index = Path(capsys.readouterr().out.strip())
    verdict = Decontaminator(index)(Document(Origin("0" * 32), text))
    assert isinstance(verdict, Verdict)
    assert verdict.value.startswith("prompts 0 ")


@pytest.mark.parametrize("line", ["{", "[]", '{"prompt": "a"}', "3"])
def test_invalid_line_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"text": "a"}}\n{line}\n')
    with pytest.raises(CorpusError) as caught:
        list(file_items(file))
    assert caught.value.field == "prompts.jsonl:2"


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        list(file_items(tmp_path / "missing"))
