"""Generator and training read the same presets, refuse the same files, and have equal limits."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.contracts import limits
from services.generator.answering import presets as served
from tests.support.errors import refused
from training.decoding import presets, rules, tasks, text
from training.decoding.rows import DecodingError
from training.decoding.rules import Rules

READERS = [
    pytest.param(served.read_presets, served.PresetError, id="generator"),
    pytest.param(presets.read_presets, DecodingError, id="training"),
]
NAMES = "code, question_answering, chat, creative"


def test_generator_and_training_read_the_same_presets() -> None:
    assert presets.PRESETS_FILE == served.PRESETS_FILE
    ours, theirs = presets.read_presets(), served.read_presets()
    assert [*map(str, ours)] == [*map(str, theirs)]
    for task, rules_of_task in ours.items():
        preset = theirs[served.Task(task)]
        assert rules_of_task == Rules(temperature=preset.temperature, top_p=preset.top_p)


def with_code(**values: Any) -> str:
    """Return the file with changed values of `code`; None removes a value."""
    content = json.loads(presets.PRESETS_FILE.read_text())
    code = {name: value for name, value in (content["code"] | values).items() if value is not None}
    return json.dumps(content | {"code": code})


def with_tasks(**tasks_by_name: Any) -> str:
    content = json.loads(presets.PRESETS_FILE.read_text()) | tasks_by_name
    return json.dumps({name: task for name, task in content.items() if task is not None})


BROKEN = [
    ("no JSON", "{", "presets.json", "MALFORMED", None),
    ("no object", "[]", "presets.json", "WRONG_TYPE", None),
    ("no object of a task", with_tasks(chat=0.7), "chat", "WRONG_TYPE", "an object"),
    ("a task is missing", with_tasks(chat=None), "chat", "MISSING", NAMES),
    ("an unknown task", with_tasks(poem={"temperature": 1, "top_p": 1}), "poem", "UNKNOWN", NAMES),
    ("a value is missing", with_code(top_p=None), "code.top_p", "MISSING", "temperature, top_p"),
    ("an unknown value", with_code(top_k=4), "code.top_k", "UNKNOWN", "temperature, top_p"),
    ("a text as number", with_code(top_p="0.1"), "code.top_p", "WRONG_TYPE", "a number"),
    ("true as number", with_code(temperature=True), "code.temperature", "WRONG_TYPE", "a number"),
    ("top_p 0", with_code(top_p=0), "code.top_p", "OUT_OF_RANGE", "above 0 to 1"),
    ("top_p 1.5", with_code(top_p=1.5), "code.top_p", "OUT_OF_RANGE", "above 0 to 1"),
    ("top_p NaN", with_code(top_p=float("nan")), "code.top_p", "OUT_OF_RANGE", "above 0 to 1"),
    ("temperature -1", with_code(temperature=-1), "code.temperature", "OUT_OF_RANGE", "0 to 2"),
    ("temperature 2.5", with_code(temperature=2.5), "code.temperature", "OUT_OF_RANGE", "0 to 2"),
]


@pytest.mark.parametrize(("read", "error"), READERS)
@pytest.mark.parametrize(
    ("content", "field", "reason", "limit"),
    [case[1:] for case in BROKEN],
    ids=[case[0] for case in BROKEN],
)
def test_invalid_presets_are_refused_by_both_with_field_and_limit(
    tmp_path: Path,
    read: Callable[[Path], object],
    error: type[Exception],
    content: str,
    field: str,
    reason: str,
    limit: str | None,
) -> None:
    file = tmp_path / "presets.json"
    file.write_text(content)
    with refused(error, field=field, reason=reason, limit=limit):
        read(file)


@pytest.mark.parametrize(("read", "error"), READERS)
def test_missing_presets_are_refused_by_both(
    tmp_path: Path, read: Callable[[Path], object], error: type[Exception]
) -> None:
    with refused(error, field="presets.json", reason="MISSING"):
        read(tmp_path / "presets.json")


def test_limits_equal_those_of_the_generator() -> None:
    ours = (
        tasks.MAX_TOKENS,
        rules.MAX_TEMPERATURE,
        rules.GREEDY_BELOW,
        text.MAX_STOPS,
        text.MAX_STOP_CHARACTERS,
    )
    assert ours == (
        limits.MAX_REPLY_TOKENS,
        limits.MAX_TEMPERATURE,
        served.GREEDY_BELOW,
        limits.MAX_STOPS,
        limits.MAX_STOP_CHARACTERS,
    )
