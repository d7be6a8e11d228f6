"""A misspelt variable stops the service."""

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings, UnknownSettingError, load_settings


class ParrotSettings(ServiceSettings):
    """Settings of a service that only this test has."""

    model_config = SettingsConfigDict(env_prefix="TW_PARROT_", frozen=True)


def test_values_come_from_variables_with_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    assert load_settings(ParrotSettings).port == 7001


def test_an_unknown_variable_of_the_prefix_is_refused_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_PROT", "7002")
    with pytest.raises(UnknownSettingError, match="TW_PARROT_PROT"):
        load_settings(ParrotSettings)


def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "99999")
    with pytest.raises(ValidationError, match="65535"):
        load_settings(ParrotSettings)
