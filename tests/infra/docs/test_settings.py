"""Page of settings: complete and without duplicates."""

import re

import pytest

from infra.docs.settings import page, settings_class
from infra.service_table import service_table


@pytest.mark.parametrize("service", service_table().names)
def test_page_contains_every_setting(service: str) -> None:
    text = page()
    common = _names(text, "every service but the predictor")
    own = _names(text, service)
    assert len(own) == len(set(own))
    assert set(settings_class(service).model_fields) <= {*own, *common}
    assert set(own) <= set(settings_class(service).model_fields)


def test_defaults_of_secrets_are_not_shown() -> None:
    assert "SecretStr" not in page()


def _names(text: str, title: str) -> list[str]:
    (table,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
