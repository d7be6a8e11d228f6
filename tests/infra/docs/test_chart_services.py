"""The chart's copy of the service table: complete, and current in the repository."""

import json
import re

import pytest
import yaml

from infra.docs.chart_services import FILE, SCHEMA, services_yaml, with_services
from infra.service_table import parse_table, service_table
from tests.charts.rendering import CHART


def test_committed_files_are_current() -> None:
    assert FILE.read_text() == services_yaml(service_table())
    schema = json.loads(SCHEMA.read_text())
    assert with_services(schema, service_table()) == schema


def test_facts_of_a_service_are_those_of_its_row() -> None:
    text = (
        "[a]\nport = 50060\ncalls = ['b']\nkeys = ['master-key']\nobjects = true\n"
        "database.driver = 'postgresql+pg8000'\nprepare = ['migrate']\n"
        "[b]\nport = 8000\ngrpc = false\n"
    )
    assert yaml.safe_load(services_yaml(parse_table(text))) == {
        "a": {
            "port": 50060,
            "calls": ["b"],
            "keys": ["master-key"],
            "objects": True,
            "database": "a",
            "driver": "postgresql+pg8000",
            "prepare": ["migrate"],
        }
    }


@pytest.mark.parametrize(
    "template", ["predictor.yaml", "network_policies.yaml", "_environment.tpl", "_kserve.tpl"]
)
def test_port_of_the_model_server_in_templates_is_that_of_the_table(template: str) -> None:
    text = (CHART / "templates" / template).read_text()
    ports = re.findall(r"(?<!\d)8000(?!\d)", text)
    assert ports
    assert {int(port) for port in ports} == {service_table()["predictor"].port}
