"""Chat data of the run, from the toy world of nano: conversations, judged pairs, prompts.

The simulated users prefer friendly and correct answers. A tenth of their judgements is wrong, as
people err.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from durable_files.files import publish
from training.evaluation.comparison import contains_word
from training.recipes.life.plan import Plan
from training.recipes.nano_world.corpus import (
    FRIENDLY,
    HELD_OUT_SHARE,
    STYLES,
    answer,
    conversations,
)
from training.recipes.nano_world.facts import Question, questions

SEED = 20_261_129
# Styles from the most to the least preferred.
PREFERENCE = ("friendly", "terse", "rambling", "grumpy", "wrong")
ERROR_SHARE = 0.1
COURTESIES = tuple(text.partition("{s}")[0].strip() for text in FRIENDLY)
CONVERSATIONS, PAIRS, PROMPTS = "conversations.jsonl", "pairs.jsonl", "prompts.jsonl"


@dataclass(frozen=True)
class Judged:
    """Shares of answers on held-out questions.

    Attributes:
        right: contain the fact.
        friendly: begin with a courtesy.
        preferred: both.
    """

    right: float
    friendly: float
    preferred: float


def write_chats(folder: Path, plan: Plan) -> dict[str, int]:
    """Write conversations in all styles, judged pairs, and prompts; return their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    asked, _ = split_questions()
    prompts = [{"messages": _asked(text)} for one in asked for text in one.phrasings]
    return {
        "conversations": _write(folder / CONVERSATIONS, conversations(plan.conversations, SEED)),
        "pairs": _write(folder / PAIRS, _pairs(asked, plan.pairs)),
        "prompts": _write(folder / PROMPTS, prompts),
    }


def split_questions() -> tuple[list[Question], list[Question]]:
    """Return the questions for judged pairs and PPO, and those of the evaluation."""
    everything = questions()
    random.Random(SEED).shuffle(everything)
    held_out = int(len(everything) * HELD_OUT_SHARE)
    return everything[held_out:], everything[:held_out]


def judge(asked: Iterable[Question], answers: Iterable[str]) -> Judged:
    """Judge an answer to each question as the simulated users do."""
    right, friendly = [], []
    for question, text in zip(asked, answers, strict=True):
        right.append(contains_word(text, [question.key]))
        friendly.append(text.startswith(COURTESIES))
    count = max(1, len(right))
    both = sum(fact and kind for fact, kind in zip(right, friendly, strict=True))
    return Judged(sum(right) / count, sum(friendly) / count, both / count)


def _pairs(asked: list[Question], count: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(SEED + 1)
    by_topic: dict[str, list[Question]] = defaultdict(list)
    for question in questions():
        by_topic[question.topic].append(question)
    for _ in range(count):
        question, styles = rng.choice(asked), rng.sample(STYLES, 2)
        better, worse = sorted(styles, key=PREFERENCE.index)
        if rng.random() < ERROR_SHARE:
            better, worse = worse, better
        text, others = rng.choice(question.phrasings), by_topic[question.topic]
        yield {
            "messages": _asked(text),
            "chosen": answer(question, better, others, rng),
            "rejected": answer(question, worse, others, rng),
            "prompt_id": text,
        }


def _asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as opened:
        for row in rows:
            opened.write(json.dumps(row) + "\n")
            count += 1
    publish(partial, path)
    return count
