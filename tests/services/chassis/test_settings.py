"""A misspelt variable stops the service; what is wrong is told without what is secret."""

import os
import subprocess
import sys

import pytest
from pydantic import SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from infra.docs.settings import settings_class
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


@pytest.mark.parametrize("words", [(), ("migrate",)], ids=["serve", "migrate"])
@pytest.mark.parametrize("service", ["feedback", "gateway", "generator", "session"])
def test_no_error_quotes_a_secret(service: str, words: tuple[str, ...]) -> None:
    """Pydantic tells of a missing value with all that was given, and of a wrong one with what it was."""
    secret = "correct-horse-battery-staple"
    fields = settings_class(service).model_fields
    named = [name for name, field in fields.items() if field.annotation is SecretStr or name.endswith("_url")]
    said = {f"TW_{service}_{name}".upper(): f"{secret}-{name}" for name in named if name != "principal_key"}
    told = subprocess.run(
        [sys.executable, "-m", f"services.{service}", *words],
        env={**os.environ, **said},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode
    assert "database_url" in told.stderr
    assert secret not in told.stdout + told.stderr
