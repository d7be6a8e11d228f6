"""Presets and what callers may change of them."""

import struct
from typing import Any

import pytest

from services.chassis.errors import InvalidArgumentError
from services.generator.presets import NO_OVERRIDES, Overrides, Sampling, Task, sampling_for


@pytest.mark.parametrize(
    ("task", "temperature", "top_p"),
    [
        (Task.CODE, 0.1, 0.9),
        (Task.QUESTION_ANSWERING, 0.3, 0.9),
        (Task.CHAT, 0.9, 0.95),
        (Task.CREATIVE, 0.95, 0.98),
    ],
)
def test_a_task_has_its_preset(task: Task, temperature: float, top_p: float) -> None:
    assert sampling_for(task, NO_OVERRIDES, 512) == Sampling(temperature, top_p, 512)


def test_overrides_replace_the_preset_one_by_one() -> None:
    assert sampling_for(Task.CHAT, Overrides(temperature=0.0), 512) == Sampling(0.0, 0.95, 512)
    assert sampling_for(Task.CHAT, Overrides(top_p=1.0), 512) == Sampling(0.9, 1.0, 512)
    assert sampling_for(Task.CHAT, Overrides(max_tokens=4096), 512) == Sampling(0.9, 0.95, 4096)
    overrides = Overrides(stop=["\n", "x" * 64, "b", "c"], seed=0)
    assert sampling_for(Task.CHAT, overrides, 512) == Sampling(0.9, 0.95, 512, ("\n", "x" * 64, "b", "c"), 0)


def test_a_temperature_that_no_model_server_takes_is_greedy() -> None:
    assert sampling_for(Task.CHAT, Overrides(temperature=0.005), 512).temperature == 0.0
    assert sampling_for(Task.CHAT, Overrides(temperature=0.01), 512).temperature == 0.01


@pytest.mark.parametrize("meant", [0.1, 0.7, 0.95, 1.3, 2.0])
def test_a_number_that_came_in_32_bits_is_what_was_meant(meant: float) -> None:
    (received,) = struct.unpack("f", struct.pack("f", meant))
    assert sampling_for(Task.CHAT, Overrides(temperature=received), 512).temperature == meant


@pytest.mark.parametrize(
    ("overrides", "field", "limit"),
    [
        ({"temperature": 9.0}, "sampling.temperature", "0 to 2"),
        ({"temperature": -0.1}, "sampling.temperature", "0 to 2"),
        ({"temperature": float("nan")}, "sampling.temperature", "0 to 2"),
        ({"top_p": 0.0}, "sampling.top_p", "above 0 to 1"),
        ({"top_p": 1.1}, "sampling.top_p", "above 0 to 1"),
        ({"top_p": float("nan")}, "sampling.top_p", "above 0 to 1"),
        ({"max_tokens": 0}, "sampling.max_tokens", "1 to 4,096"),
        ({"max_tokens": 4097}, "sampling.max_tokens", "1 to 4,096"),
        ({"stop": ["a"] * 5}, "sampling.stop", "at most 4"),
        ({"stop": ["a" * 65]}, "sampling.stop", "1 to 64 characters each"),
        ({"stop": [""]}, "sampling.stop", "1 to 64 characters each"),
    ],
)
def test_an_override_out_of_range_names_field_and_limit(overrides: dict[str, Any], field: str, limit: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        sampling_for(Task.CHAT, Overrides(**overrides), 512)
    assert (caught.value.field, caught.value.limit) == (field, limit)
