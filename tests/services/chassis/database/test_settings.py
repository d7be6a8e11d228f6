"""A database by its parts: the URL built of them, and refused combinations."""

import pytest
from pydantic_settings import SettingsConfigDict
from sqlalchemy import URL, make_url

from services.chassis.database.settings import PostgresParts
from services.chassis.settings import ServiceSettings, SettingsError, load_settings


class ParrotStore(PostgresParts, ServiceSettings):
    """Settings of a service with a database."""

    model_config = SettingsConfigDict(env_prefix="TW_PARROT_", frozen=True)

    port: int = 0
    database_url: str = "sqlite:///parrots.db"


PARTS = {"HOST": "db-rw", "NAME": "app", "USERNAME": "app", "PASSWORD": "p/@:?#%41 +&é"}


def stored(monkeypatch: pytest.MonkeyPatch, **variables: str) -> URL:
    for name, value in variables.items():
        monkeypatch.setenv(f"TW_PARROT_DATABASE_{name}", value)
    return make_url(load_settings(ParrotStore).database_url)


def test_url_is_built_of_parts_with_any_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stored(monkeypatch, **PARTS, PORT="6432", SSL_MODE="verify-full")
    assert found == URL.create(
        *("postgresql+asyncpg", "app", PARTS["PASSWORD"], "db-rw", 6432, "app"),
        query={"ssl": "verify-full"},
    )


def test_usual_port_and_no_tls_are_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stored(monkeypatch, **PARTS | {"HOST": "fd00::1"})
    assert (found.host, found.port, found.query) == ("fd00::1", 5432, {})


def test_url_without_a_driver_gets_that_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    found = stored(monkeypatch, URL="postgresql://app:p%40@db-rw:5432/app?sslmode=require")
    assert found.render_as_string(hide_password=False) == (
        "postgresql+asyncpg://app:p%40@db-rw:5432/app?ssl=require"
    )


def test_url_of_a_file_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stored(monkeypatch).database == "parrots.db"


@pytest.mark.parametrize("missing", PARTS)
def test_missing_part_is_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    with pytest.raises(SettingsError) as refused:
        stored(monkeypatch, **{name: PARTS[name] for name in PARTS if name != missing})
    assert refused.value.wrong == [("", "INCOMPLETE")]
    assert f"database_{missing.lower()}" in str(refused.value)
    assert PARTS["PASSWORD"] not in str(refused.value)


def test_parts_and_url_are_refused_together(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as refused:
        stored(monkeypatch, **PARTS, URL="postgresql+asyncpg://a:b@db/app")
    assert refused.value.wrong == [("", "AMBIGUOUS")]


@pytest.mark.parametrize(
    ("part", "wrong"), [("HOST", "a@b"), ("NAME", "a?ssl=off"), ("SSL_MODE", "prefer")]
)
def test_part_that_would_change_the_url_is_refused(
    monkeypatch: pytest.MonkeyPatch, part: str, wrong: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        stored(monkeypatch, **PARTS | {part: wrong})
    assert [field for field, _ in refused.value.wrong] == [f"database_{part.lower()}"]
