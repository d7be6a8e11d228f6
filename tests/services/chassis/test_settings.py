"""Settings: misspelt variables stop the service, and errors contain no secrets."""

import importlib
import os
import re
import subprocess
import sys

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.docs.settings import settings_class
from services.chassis.settings import ServiceSettings, SettingsError, load_settings


class ParrotSettings(ServiceSettings):
    """Settings of a service for these tests."""

    model_config = SettingsConfigDict(env_prefix="TW_PARROT_", frozen=True)

    words: tuple[str, ...] = ()


class ParrotPort(BaseSettings):
    """Settings class with only one of the variables."""

    model_config = SettingsConfigDict(env_prefix="TW_PARROT_", frozen=True, extra="ignore")

    port: int


def test_values_come_from_variables_with_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    assert load_settings(ParrotSettings).port == 7001


def test_unknown_variable_with_the_prefix_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_PROT", "7002")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("TW_PARROT_PROT", "UNKNOWN")]
    assert str(refused.value).startswith("settings: TW_PARROT_PROT: ")
    assert "TW_PARROT_PORT" in str(refused.value), "the known ones are named"


def test_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "99999")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("port", "LESS_THAN_EQUAL")]
    assert re.fullmatch("settings: port: .* 65535", str(refused.value))


def test_every_invalid_setting_has_its_own_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    missing, wrong = str(refused.value).splitlines()
    assert refused.value.wrong == [("port", "MISSING"), ("log_format", "STRING_PATTERN_MISMATCH")]
    assert missing.startswith("settings: port: ")
    assert wrong.startswith("settings: log_format: ")
    assert "xml" not in wrong


def test_error_of_several_settings_has_the_text_of_the_validator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_TLS_KEY", "here.pem")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("", "INCOMPLETE")]
    assert re.match("settings: .*tls_certificate.*tls_key.*tls_authority", str(refused.value))


def test_list_with_invalid_json_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_WORDS", "[hello")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("words", "MALFORMED")]
    assert re.match("settings: words: not valid JSON", str(refused.value))
    assert "hello" not in str(refused.value)


def test_class_that_ignores_unknown_variables_reads_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """For example the commands of the gateway, which need the database only."""
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_WORDS", "[hello")
    assert load_settings(ParrotPort).port == 7001


SECRET = "correct-horse-battery-staple"


def secrets_of(service: str) -> dict[str, str]:
    """Return variables for the secrets of a service, without `principal_key`.

    The database URL is malformed, and replaces the parts with the password.
    """
    fields = settings_class(service).model_fields
    named = [
        name
        for name, field in fields.items()
        if field.annotation is SecretStr or name.endswith("_url")
    ]
    return {
        f"TW_{service}_{name}".upper(): f"{SECRET}-{name}"
        for name in named
        if name not in ("principal_key", "database_password")
    }


def assert_no_secret(text: str) -> None:
    lines = text.splitlines()
    assert [line for line in lines if not line.startswith("settings: ")] == [], (
        "a traceback, or a warning"
    )
    assert [line for line in lines if line.startswith("settings: database_url: ")]
    assert SECRET not in text


@pytest.mark.parametrize("words", [(), ("migrate",)], ids=["serve", "migrate"])
@pytest.mark.parametrize("service", ["feedback", "gateway", "generator", "session"])
def test_no_error_quotes_a_secret(
    service: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Pydantic quotes all input for a missing value, and the value itself for an invalid value."""
    for name, value in secrets_of(service).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [service, *words])
    with pytest.raises(SettingsError) as refused:
        importlib.import_module(f"services.{service}.__main__").main()
    assert_no_secret(str(refused.value))
    assert capsys.readouterr() == ("", "")


def test_process_ends_with_the_error_and_no_traceback() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "services.generator"],
        env={**os.environ, **secrets_of("generator")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert process.returncode
    assert process.stdout == ""
    assert_no_secret(process.stderr)
