"""A misspelt variable stops the service; what is wrong is told without what is secret."""

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
    """Settings of a service that only this test has."""

    model_config = SettingsConfigDict(env_prefix="TW_PARROT_", frozen=True)

    words: tuple[str, ...] = ()


class ParrotPort(BaseSettings):
    """A part of them."""

    model_config = SettingsConfigDict(env_prefix="TW_PARROT_", frozen=True, extra="ignore")

    port: int


def test_values_come_from_variables_with_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    assert load_settings(ParrotSettings).port == 7001


def test_an_unknown_variable_of_the_prefix_is_refused_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_PROT", "7002")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("TW_PARROT_PROT", "UNKNOWN")]
    assert str(refused.value).startswith("settings: TW_PARROT_PROT: ")
    assert "TW_PARROT_PORT" in str(refused.value), "the known ones are named"


def test_a_value_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "99999")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("port", "LESS_THAN_EQUAL")]
    assert re.fullmatch("settings: port: .* 65535", str(refused.value))


def test_every_wrong_setting_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_LOG_FORMAT", "xml")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    missing, wrong = str(refused.value).splitlines()
    assert refused.value.wrong == [("port", "MISSING"), ("log_format", "STRING_PATTERN_MISMATCH")]
    assert missing.startswith("settings: port: ")
    assert wrong.startswith("settings: log_format: ")
    assert "xml" not in wrong


def test_what_several_settings_must_have_together_is_told_as_they_say_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_TLS_KEY", "here.pem")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("", "INCOMPLETE")]
    assert re.match("settings: .*tls_certificate.*tls_key.*tls_authority", str(refused.value))


def test_a_list_that_is_no_json_is_named_and_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_WORDS", "[hello")
    with pytest.raises(SettingsError) as refused:
        load_settings(ParrotSettings)
    assert refused.value.wrong == [("", "MALFORMED")]
    assert re.match('settings: .*"words"', str(refused.value))
    assert "hello" not in str(refused.value)


def test_a_class_that_ignores_the_others_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the commands of the gateway, which need its database alone."""
    monkeypatch.setenv("TW_PARROT_PORT", "7001")
    monkeypatch.setenv("TW_PARROT_WORDS", "[hello")
    assert load_settings(ParrotPort).port == 7001


SECRET = "correct-horse-battery-staple"


def secrets_of(service: str) -> dict[str, str]:
    """Variables for the secrets of a service without `principal_key`; the database URL is
    malformed.
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
        if name != "principal_key"
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
    """Pydantic tells of a missing value with all that was given, and of a wrong one with what it
    was.
    """
    for name, value in secrets_of(service).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", [service, *words])
    with pytest.raises(SettingsError) as refused:
        importlib.import_module(f"services.{service}.__main__").main()
    assert_no_secret(str(refused.value))
    assert capsys.readouterr() == ("", "")


def test_a_process_ends_by_the_error_alone() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "services.generator"],
        env={**os.environ, **secrets_of("generator")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert told.returncode
    assert told.stdout == ""
    assert_no_secret(told.stderr)
