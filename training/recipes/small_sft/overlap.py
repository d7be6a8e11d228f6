"""Find training examples that overlap with an evaluation set.

Overlap is an equal question, or eight consecutive words in common.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa

from training.recipes.small_sft.sources import Example, words

_RUN_WORDS = 8


def overlapping(examples: Sequence[Example], evaluation_texts: Iterator[str]) -> set[int]:
    """Return the indices of examples to drop.

    The examples are indexed, so the evaluation sets may be of any size.
    """
    questions: dict[tuple[str, ...], set[int]] = {}
    runs: dict[tuple[str, ...], set[int]] = {}
    for index, example in enumerate(examples):
        for text in (*example.turns, example.response):
            found = words(text)
            for run in _runs(found):
                runs.setdefault(run, set()).add(index)
        questions.setdefault(words(example.turns[-1]), set()).add(index)
    overlaps: set[int] = set()
    for text in evaluation_texts:
        found = words(text)
        overlaps |= questions.get(found, set())
        overlaps = overlaps.union(*(runs[run] for run in _runs(found) if run in runs))
    return overlaps


def read_evaluation_texts(folder: Path) -> Iterator[str]:
    """Yield all texts of the evaluation sets in the folder, without train splits.

    Formats are request files, Arrow tables and JSON lines.
    """
    for path in sorted(folder.rglob("*")):
        if any(part == "train" or part.startswith("train_") for part in path.parts):
            continue
        if path.name == "requests.jsonl.gz":
            with gzip.open(path, "rt") as lines:
                # Each choice has a line with the whole document.
                for document, _ in groupby(json.loads(line)["doc"] for line in lines):
                    for text in _texts(document):
                        yield text.removeprefix("Question:").removesuffix("Answer:")
        elif path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                for batch in pa.ipc.open_stream(source):
                    yield from _texts(batch.to_pylist())
        elif path.suffix == ".jsonl":
            yield from (
                text for line in path.read_text().splitlines() for text in _texts(json.loads(line))
            )


def _runs(found: Sequence[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(found[i : i + _RUN_WORDS]) for i in range(len(found) - _RUN_WORDS + 1))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
