"""Presets, their changes by settings, and overrides of callers."""

import dataclasses
import struct
from typing import Any

import pytest

from services.chassis.errors import InvalidArgumentError
from services.chassis.settings import SettingsError, load_settings
from services.contracts.chat import SamplingOverrides, Task
from services.generator.answering.presets import (
    Preset,
    PresetError,
    Sampling,
    read_presets,
    sampling_for,
)
from services.generator.settings import GeneratorSettings
from tests.support.errors import refused

# The acceptance cases: code P .1 low temperature; factual QA P .3-.5 low; conversation P .9 medium;
# creative P .95 high.
TABLE = {
    Task.CODE: Preset(0.2, 0.1),
    Task.QUESTION_ANSWERING: Preset(0.3, 0.4),
    Task.CHAT: Preset(0.7, 0.9),
    Task.CREATIVE: Preset(1.0, 0.95),
}
CHAT = Preset(0.7, 0.9)


def test_each_task_has_the_nucleus_mass_of_the_acceptance_cases() -> None:
    assert read_presets() == TABLE


@pytest.mark.parametrize(
    ("field", "value", "limit"),
    [
        ("temperature", -0.1, "0 to 2"),
        ("temperature", 2.1, "0 to 2"),
        ("temperature", float("nan"), "0 to 2"),
        ("top_p", 0.0, "above 0 to 1"),
        ("top_p", 1.1, "above 0 to 1"),
        ("top_p", float("nan"), "above 0 to 1"),
    ],
)
def test_a_preset_out_of_range_names_field_and_limit(field: str, value: float, limit: str) -> None:
    with refused(PresetError, field=field, reason="OUT_OF_RANGE", limit=limit):
        dataclasses.replace(CHAT, **{field: value})


def test_a_setting_replaces_single_values_and_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings(GeneratorSettings).task_presets() == TABLE
    monkeypatch.setenv(
        "TW_GENERATOR_PRESETS", '{"code": {"top_p": 0.2}, "chat": {"temperature": 0, "top_p": 1}}'
    )
    changed = {Task.CODE: Preset(0.2, 0.2), Task.CHAT: Preset(0.0, 1.0)}
    assert load_settings(GeneratorSettings).task_presets() == TABLE | changed


@pytest.mark.parametrize(
    ("presets", "field", "reason", "limit"),
    [
        ('{"poem": {"top_p": 0.2}}', "presets.poem.[key]", "ENUM", "question_answering"),
        ('{"unspecified": {"top_p": 0.2}}', "presets.unspecified.[key]", "ENUM", "creative"),
        ('{"code": {"top_k": 4}}', "presets.code.top_k", "EXTRA_FORBIDDEN", ""),
        ('{"code": {"top_p": 0}}', "presets.code.top_p", "GREATER_THAN", "0"),
        ('{"code": {"top_p": 1.1}}', "presets.code.top_p", "LESS_THAN_EQUAL", "1"),
        ('{"code": {"top_p": NaN}}', "presets.code.top_p", "FINITE_NUMBER", ""),
        ('{"chat": {"temperature": -0.1}}', "presets.chat.temperature", "GREATER_THAN_EQUAL", "0"),
        ('{"chat": {"temperature": 2.1}}', "presets.chat.temperature", "LESS_THAN_EQUAL", "2"),
        ('{"chat": 0.7}', "presets.chat", "MODEL_TYPE", ""),
        ("[hello", "presets", "MALFORMED", ""),
    ],
)
def test_an_invalid_setting_stops_the_service_and_names_the_field(
    monkeypatch: pytest.MonkeyPatch, presets: str, field: str, reason: str, limit: str
) -> None:
    monkeypatch.setenv("TW_GENERATOR_PRESETS", presets)
    with refused(SettingsError) as caught:
        load_settings(GeneratorSettings)
    assert caught.value.wrong == [(field, reason)]
    assert limit in str(caught.value)


def test_each_override_replaces_one_value_of_the_preset() -> None:
    assert sampling_for(CHAT, SamplingOverrides(), 512) == Sampling(0.7, 0.9, 512)
    assert sampling_for(CHAT, SamplingOverrides(temperature=0.0), 512) == Sampling(0.0, 0.9, 512)
    assert sampling_for(CHAT, SamplingOverrides(top_p=1.0), 512) == Sampling(0.7, 1.0, 512)
    assert sampling_for(CHAT, SamplingOverrides(max_tokens=4096), 512) == Sampling(0.7, 0.9, 4096)
    overrides = SamplingOverrides(stop=("\n", "x" * 64, "b", "c"), seed=0)
    assert sampling_for(CHAT, overrides, 512) == Sampling(
        0.7, 0.9, 512, ("\n", "x" * 64, "b", "c"), 0
    )


def test_a_temperature_below_the_minimum_is_greedy() -> None:
    assert sampling_for(CHAT, SamplingOverrides(temperature=0.005), 512).temperature == 0.0
    assert sampling_for(CHAT, SamplingOverrides(temperature=0.01), 512).temperature == 0.01
    assert sampling_for(Preset(0.005, 0.9), SamplingOverrides(), 512).temperature == 0.0


@pytest.mark.parametrize("decimal", [0.1, 0.7, 0.95, 1.3, 2.0])
def test_a_32_bit_number_is_rounded_to_its_decimal_value(decimal: float) -> None:
    (received,) = struct.unpack("f", struct.pack("f", decimal))
    assert sampling_for(CHAT, SamplingOverrides(temperature=received), 512).temperature == decimal


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
def test_an_override_out_of_range_names_field_and_limit(
    overrides: dict[str, Any], field: str, limit: str
) -> None:
    with refused(InvalidArgumentError, field=field, limit=limit):
        sampling_for(CHAT, SamplingOverrides(**overrides), 512)
