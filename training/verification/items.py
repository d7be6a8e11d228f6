"""An item: a prompt, and what verifies a response to it. As a line of a file it is a prompt that
stages read, with its check beside it.

What is held out is decided by the prompt's own text, never by a field: the same question made
again, in another file or by another seed, falls on the same side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.data.examples import ExampleError, PromptExample
from training.data.seeds import seed_of
from training.verification.checks import Check, CheckError, from_mapping, to_mapping

HELD_OUT_OF = 10  # one in ten


class Split(StrEnum):
    """Held out: never trained on, so that it can tell what was learned."""

    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Item:
    """task: where it is from. level: of difficulty, where the generator has them."""

    task: str
    prompt: str
    check: Check
    level: int | None = None

    @property
    def id(self) -> str:
        """The same for the same prompt and check."""
        text = json.dumps([self.prompt, to_mapping(self.check)], sort_keys=True)
        return f"{self.task}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def split(self) -> Split:
        """By the prompt."""
        return split_of(self.prompt)


def split_of(prompt: str) -> Split:
    """Of every prompt in every task."""
    return (
        Split.HELD_OUT
        if seed_of("verification", "held out", prompt) % HELD_OUT_OF == 0
        else Split.TRAIN
    )


def write_items(items: Iterable[Item], path: Path) -> int:
    """JSON lines {"messages", "task"}, the task being all that verifies, as text; returns how many."""
    count = 0
    with path.open("w") as lines:
        for item in items:
            row = {"messages": [{"role": "user", "content": item.prompt}], "task": _written(item)}
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def items_of(prompts: Sequence[PromptExample]) -> list[Item]:
    """The items of prompts, in their order.

    Raises:
        ExampleError: a prompt has none, or one that is not ours; with its number, counted from 1,
            as in the field "prompts.1.task".
    """
    return [_item(number, prompt) for number, prompt in enumerate(prompts, start=1)]


def training_items(prompts: Sequence[PromptExample]) -> list[Item]:
    """items_of, for a stage that learns from them.

    Raises:
        ExampleError: also if one of them is held out.
    """
    items = items_of(prompts)
    for number, item in enumerate(items, start=1):
        if item.split is Split.HELD_OUT:
            raise ExampleError(
                f"prompt {number}: {item.id} is held out and must not train",
                field=f"prompts.{number}",
                reason="CONFLICT",
            )
    return items


def _written(item: Item) -> str:
    return json.dumps(
        {"name": item.task, "id": item.id, "level": item.level, "check": to_mapping(item.check)}
    )


def _item(number: int, prompt: PromptExample) -> Item:
    field = f"prompts.{number}.task"
    if not prompt.task:
        raise ExampleError(
            f"prompt {number}: task: missing, so there is nothing to verify a response by",
            field=field,
            reason="MISSING",
        )
    try:
        described = json.loads(prompt.task)
    except json.JSONDecodeError as error:
        raise ExampleError(
            f"prompt {number}: task: not JSON, so not one of `python -m training tasks write`",
            field=field,
            reason="MALFORMED",
        ) from error
    if not isinstance(described, dict) or not isinstance(described.get("check"), dict):
        raise ExampleError(
            f"prompt {number}: task.check: missing", field=f"{field}.check", reason="MISSING"
        )
    try:
        check = from_mapping(described["check"])
    except CheckError as error:
        raise ExampleError(
            f"prompt {number}: task.{error}",
            field=f"{field}.{error.field}",
            reason=error.reason,
            limit=error.limit,
        ) from error
    name, level = described.get("name"), described.get("level")
    if not isinstance(name, str) or not (level is None or type(level) is int):
        raise ExampleError(
            f"prompt {number}: task.name: must be text, and task.level a whole number or null",
            field=f"{field}.{'level' if isinstance(name, str) else 'name'}",
            reason="WRONG_TYPE",
        )
    item = Item(name, prompt.messages[-1].content, check, level)
    if described.get("id") != item.id:
        raise ExampleError(
            f"prompt {number}: task.id: is not that of its prompt and check; one of them was changed",
            field=f"{field}.id",
            reason="MISMATCH",
            limit=item.id,
        )
    return item
