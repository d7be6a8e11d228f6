"""Texts of all items of benchmarks and probes, for the decontamination of training data.

Also the command `thumbwheel data items`, which writes them as an index of n-grams.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from training.benchmarks.data import SOURCES, Row, mmlu_subjects, rows
from training.corpus.decontamination import EvaluationItem, build_index
from training.corpus.document import CorpusError

SUMMARY = "Index the items of benchmarks, probes and files for the decontamination of texts."

Texts = Callable[[Row], tuple[str, ...]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="the index is a subfolder"
    )
    parser.add_argument(
        "--texts",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="JSON lines with `text`: further items, named after the file; may be given repeatedly",
    )


def run(options: argparse.Namespace) -> int:
    """Build the index and print its path."""
    items = [*evaluation_items(), *(item for file in options.texts for item in file_items(file))]
    print(build_index(items, options.out))
    return 0


def evaluation_items() -> Iterator[EvaluationItem]:
    """Yield all items of the benchmarks and probes.

    Raises:
        ItemsError: items are missing.
        DataError: the package of the benchmarks could not be installed.
    """
    # Imported here, because the options are described without the packages of the command.
    from training.probes.items import Kind, items_of

    for task in SOURCES:
        for number, row in enumerate(rows(task)):
            yield EvaluationItem(task, number, TEXTS[task](row))
    tests = (row for test, _ in mmlu_subjects().values() for row in test)
    for number, row in enumerate(tests):
        yield EvaluationItem(
            "mmlu", number, _answered(row["question"], row["choices"][row["answer"]])
        )
    for kind in Kind:
        for number, item in enumerate(items_of(kind)):
            contents = tuple(message["content"] for message in item.messages)
            yield EvaluationItem(str(kind), number, contents)


def file_items(file: Path) -> Iterator[EvaluationItem]:
    """Yield an item for each line of a file, for example of held-out prompts.

    Raises:
        CorpusError: the file cannot be read, or a line is no JSON object with the key `text`.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CorpusError(f"{file} cannot be read as text", field=str(file)) from error
    for number, line in enumerate(lines):
        try:
            text = json.loads(line)["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"{file.name}:{number + 1} must be a JSON object with `text`",
                field=f"{file.name}:{number + 1}",
                limit="a JSON object with `text`",
            ) from error
        yield EvaluationItem(file.stem, number, (str(text),))


def _answered(question: str, answer: str) -> tuple[str, str]:
    return question, f"{question} {answer}"


def _choice(field: str) -> Texts:
    """Return the texts of a row of ARC or OpenBookQA."""

    def texts(row: Row) -> tuple[str, ...]:
        place = row["choices"]["label"].index(row["answerKey"])
        return _answered(row[field], row["choices"]["text"][place])

    return texts


# Without passages that a question is about (BoolQ): they are pages of Wikipedia, and without code
# of solutions: short loops occur in many programs.
TEXTS: Mapping[str, Texts] = {
    "hellaswag": lambda row: _answered(row["ctx"], row["endings"][int(row["label"])]),
    "piqa": lambda row: _answered(row["goal"], row[f"sol{row['label'] + 1}"]),
    "arc_easy": _choice("question"),
    "arc_challenge": _choice("question"),
    "winogrande": lambda row: (row["sentence"].replace("_", row[f"option{row['answer']}"]),),
    "boolq": lambda row: (row["question"],),
    "openbookqa": _choice("question_stem"),
    "triviaqa": lambda row: (row["question"],),
    "nq_open": lambda row: (row["question"],),
    "gsm8k": lambda row: (row["question"], row["answer"]),
    "math500": lambda row: (row["problem"], row["solution"]),
    "lambada": lambda row: (row["text"],),
    "humaneval": lambda row: (row["prompt"],),
    "mbpp": lambda row: (row["text"],),
}
