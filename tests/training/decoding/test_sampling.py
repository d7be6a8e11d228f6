"""Sampling: frequencies, independence of rows, refused settings, the generator's presets."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from services.contracts import limits
from services.generator.answering import presets as served
from tests.support.errors import refused
from tests.training.decoding.families import PROMPTS, pair
from training.data.tensors import pad
from training.decoding import config
from training.decoding.config import BeamConfig, DecodingError, Rules
from training.decoding.rows import Rows, stop_at
from training.decoding.sampling import (
    apply_rules,
    choose,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalise,
    row_noise,
    sample,
    seen,
)
from training.model.transformer import PositionError

NEW = 8
# 0.999 quantiles, by degrees of freedom.
CHI_SQUARE_999 = {5: 20.52, 6: 22.46, 7: 24.32, 8: 26.12, 9: 27.88, 10: 29.59, 11: 31.26}
CHAT = Rules(temperature=0.9, top_p=0.95, repetition_penalty=1.1)
READERS = [
    pytest.param(served.read_presets, served.PresetError, id="generator"),
    pytest.param(config.read_presets, DecodingError, id="training"),
]
NAMES = "code, question_answering, chat, creative"


def test_token_frequencies_match_the_transformed_distribution() -> None:
    draws, prompt = 20_000, PROMPTS[0]
    rules = Rules(temperature=1.3, top_k=12, top_p=0.9)
    rows = Rows(pair("gpt2").ours, [prompt], 1, copies=draws)
    drawn = torch.tensor(
        [continuation.ids[0] for continuation in sample(rows, rules, stop_at([]), 1, [17])]
    )
    ids, mask = pad([prompt], side="left")
    expected = apply_rules(rules, Rows(pair("gpt2").ours, [prompt], 1).next_logits(), ids, mask)[
        0
    ].softmax(-1)
    counts = torch.bincount(drawn, minlength=97)
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert 5 < possible.sum() <= 12
    statistic = float(
        ((counts - draws * expected)[possible].square() / (draws * expected[possible])).sum()
    )
    assert statistic < CHI_SQUARE_999[int(possible.sum()) - 1]


@pytest.mark.parametrize("family", ["gpt2", "gemma3_untied"])
def test_row_is_independent_of_its_neighbours(family: str) -> None:
    ours = pair(family).ours
    together = sample(
        Rows(ours, PROMPTS, NEW, copies=2), CHAT, stop_at([3, 4, 5]), NEW, [11, 12, 13]
    )
    for number, prompt in enumerate(PROMPTS):
        alone = sample(
            Rows(ours, [prompt], NEW, copies=2), CHAT, stop_at([3, 4, 5]), NEW, [11 + number]
        )
        assert together[2 * number : 2 * number + 2] == alone
    assert together[0] != together[1]


def test_copies_with_a_shared_prefill_have_equal_logits() -> None:
    ours = pair("gemma3_untied").ours
    shared = Rows(ours, PROMPTS, 2, copies=2)
    apart = Rows(ours, [prompt for prompt in PROMPTS for _ in range(2)], 2)
    assert torch.equal(shared.ids_BS, apart.ids_BS)
    for _ in range(2):
        assert (shared.next_logits() - apart.next_logits()).abs().max() < 1e-4
        for rows in (shared, apart):
            rows.append(torch.arange(6), torch.tensor([True] * 5 + [False]))


def test_selected_rows_continue_like_separate_rows() -> None:
    ours = pair("gpt2").ours
    rows = Rows(ours, PROMPTS, 4)
    rows.next_logits()
    rows.append(torch.tensor([7, 8, 9]), torch.ones(3, dtype=torch.bool))
    rows.take(torch.tensor([2, 0, 2, 1]))
    alone = Rows(ours, [[*PROMPTS[row], 7 + row] for row in (2, 0, 2, 1)], 4)
    assert (rows.next_logits() - alone.next_logits()).abs().max() < 1e-4


def test_ended_rows_end_with_a_stop_token_and_others_reach_the_limit() -> None:
    continuation = sample(
        Rows(pair("gpt2").ours, PROMPTS, NEW, copies=20),
        Rules(),
        stop_at(list(range(40))),
        NEW,
        [1, 2, 3],
    )
    assert {one.ended for one in continuation} == {True, False}
    for one in continuation:
        ends = [place for place, token in enumerate(one.ids) if token < 40]
        assert ends == ([len(one.ids) - 1] if one.ended else [])
        assert one.ended or len(one.ids) == NEW


def test_sampling_rules_on_example_values() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()

    def kept(ruled: torch.Tensor) -> list[bool]:
        return [value > -math.inf for value in ruled.flatten().tolist()]

    assert kept(keep_top_k(logits, 2)) == [True, True, False, False]
    assert kept(keep_top_k(torch.zeros(1, 4), 1)) == [True] * 4  # ties are included
    assert kept(keep_top_k(logits, 99)) == [True] * 4
    assert kept(keep_top_p(logits, 0.79)) == [True, True, False, False]
    assert kept(keep_top_p(logits, 0.81)) == [True, True, True, False]
    assert kept(keep_top_p(logits, 1e-9)) == [True, False, False, False]
    assert kept(keep_min_p(logits, 0.2)) == [True, True, True, False]
    assert penalise(
        torch.tensor([[2.0, -2.0, 2.0]]), torch.tensor([[True, True, False]]), 2.0
    ).tolist() == [[1, -4, 2]]
    assert seen(torch.tensor([[0, 2, 2]]), torch.tensor([[0, 1, 1]]), 4).tolist() == [
        [False, False, True, False]
    ]


def test_noise_is_independent_per_row_and_unused_when_greedy() -> None:
    noise = row_noise([1, 2], 2, 5)
    assert torch.equal(noise[2:], row_noise([2], 2, 5))
    assert len({float(x) for x in noise.flatten()}) == 20
    assert choose(torch.tensor([[0.0, 3.0, 1.0]]), torch.tensor([0.999]), 0).tolist() == [1]


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("temperature", -0.1, "0 to 2"),
        ("temperature", 2.1, "0 to 2"),
        ("temperature", math.nan, "0 to 2"),
        ("top_p", 0.0, "above 0 to 1"),
        ("top_p", 1.1, "above 0 to 1"),
        ("top_k", -1, "at least 0"),
        ("min_p", 1.0, "0 to below 1"),
        ("repetition_penalty", 0.0, "above 0"),
        ("repetition_penalty", math.inf, "above 0"),
    ],
)
def test_setting_out_of_range_is_refused_with_field_and_limit(
    field: str, value: float, limit: str
) -> None:
    with refused(DecodingError, field=field, reason="OUT_OF_RANGE", limit=limit) as caught:
        Rules(**{field: value})  # type: ignore[arg-type]
    assert f"{value:g}" in caught.value.text


def test_invalid_prompts_and_beam_settings_are_refused() -> None:
    ours = pair("gpt2").ours
    with refused(DecodingError, field="prompt", reason="EMPTY"):
        Rows(ours, [[1], []], 4)
    with refused(DecodingError, field="prompt", reason="OUT_OF_RANGE", limit="below 97"):
        Rows(ours, [[97]], 4)
    with refused(DecodingError, field="max_tokens", reason="OUT_OF_RANGE", limit="at least 1"):
        Rows(ours, [[1]], 0)
    with refused(PositionError, field="max_positions", reason="TOO_LARGE", limit="64") as caught:
        Rows(ours, [[1, 2, 3]], 62)
    assert {"3", "62"} <= set(re.findall(r"\d+", caught.value.text))
    Rows(ours, [[1, 2, 3]], 61)
    with refused(DecodingError, field="beams", reason="OUT_OF_RANGE", limit="at least 1"):
        BeamConfig(0)
    with refused(DecodingError, field="length_penalty", reason="NOT_FINITE"):
        BeamConfig(length_penalty=math.inf)
    with refused(DecodingError, field="repetition_penalty", reason="OUT_OF_RANGE", limit="above 0"):
        BeamConfig(repetition_penalty=0)


def test_generator_and_training_read_the_same_presets() -> None:
    assert config.PRESETS_FILE == served.PRESETS_FILE
    ours, theirs = config.read_presets(), served.read_presets()
    assert [*map(str, ours)] == [*map(str, theirs)]
    for task, rules_of_task in ours.items():
        preset = theirs[served.Task(task)]
        assert rules_of_task == Rules(temperature=preset.temperature, top_p=preset.top_p)


def with_code(**values: Any) -> str:
    """Return the file with changed values of `code`; None removes a value."""
    content = json.loads(config.PRESETS_FILE.read_text())
    code = {name: value for name, value in (content["code"] | values).items() if value is not None}
    return json.dumps(content | {"code": code})


def with_tasks(**tasks_by_name: Any) -> str:
    content = json.loads(config.PRESETS_FILE.read_text()) | tasks_by_name
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
        config.MAX_TOKENS,
        config.MAX_TEMPERATURE,
        config.GREEDY_BELOW,
        config.MAX_STOPS,
        config.MAX_STOP_CHARACTERS,
    )
    assert ours == (
        limits.MAX_REPLY_TOKENS,
        limits.MAX_TEMPERATURE,
        served.GREEDY_BELOW,
        limits.MAX_STOPS,
        limits.MAX_STOP_CHARACTERS,
    )
