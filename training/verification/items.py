"""Items: a prompt and the check of its responses, stored as a line of a stage's prompt file.

The text of the prompt decides the split. The same question from another file or seed is therefore
on the same side.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.data.examples import PromptExample
from training.data.formats.fields import ExampleError
from training.data.seeds import seed_of
from training.verification.checks import Check, CheckError, from_mapping, to_mapping

HELD_OUT_OF = 10  # one in ten


class Split(StrEnum):
    """Side of the division; held-out items are never trained on."""

    TRAIN = "train"
    HELD_OUT = "held-out"


@dataclass(frozen=True)
class Item:
    """A prompt with its check. `task` names the source, `level` the difficulty if available."""

    task: str
    prompt: str
    check: Check
    level: int | None = None

    @property
    def id(self) -> str:
        """Identifier of prompt and check, equal for equal content."""
        text = json.dumps([self.prompt, to_mapping(self.check)], sort_keys=True)
        return f"{self.task}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def split(self) -> Split:
        """Split of the item, determined by the prompt."""
        return split_of(self.prompt)


def split_of(prompt: str) -> Split:
    """Return the split of a prompt, for all tasks."""
    return (
        Split.HELD_OUT
        if seed_of("verification", "held out", prompt) % HELD_OUT_OF == 0
        else Split.TRAIN
    )


def write_items(items: Iterable[Item], path: Path) -> int:
    """Write JSON lines {"messages", "task"} and return their number.

    `task` holds the complete check as JSON text.
    """
    count = 0
    with path.open("w") as lines:
        for item in items:
            task = {
                "name": item.task,
                "id": item.id,
                "level": item.level,
                "check": to_mapping(item.check),
            }
            row = {
                "messages": [{"role": "user", "content": item.prompt}],
                "task": json.dumps(task),
            }
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def parse_items(prompts: Sequence[PromptExample]) -> list[Item]:
    """Return the items of prompts, in order.

    Raises:
        ExampleError: a prompt has no valid item; `field` has its number from 1, as in
            "prompts.1.task".
    """
    return [_parse_item(number, prompt) for number, prompt in enumerate(prompts, start=1)]


def training_items(prompts: Sequence[PromptExample]) -> list[Item]:
    """Return the items of prompts for training.

    Raises:
        ExampleError: as in `parse_items`, or an item is held out.
    """
    items = parse_items(prompts)
    for number, item in enumerate(items, start=1):
        if item.split is Split.HELD_OUT:
            raise ExampleError(
                f"prompt {number}: {item.id} is held out and must not train",
                field=f"prompts.{number}",
                reason="CONFLICT",
            )
    return items


def _parse_item(number: int, prompt: PromptExample) -> Item:
    field = f"prompts.{number}.task"
    if not prompt.task:
        raise ExampleError(
            f"prompt {number}: task: missing, but needed to verify responses",
            field=field,
            reason="MISSING",
        )
    try:
        described = json.loads(prompt.task)
    except json.JSONDecodeError as error:
        raise ExampleError(
            f"prompt {number}: task: not JSON as written by `thumbwheel train tasks write`",
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
            f"prompt {number}: task.id: does not match prompt and check; one of them was changed",
            field=f"{field}.id",
            reason="MISMATCH",
            limit=item.id,
        )
    return item
