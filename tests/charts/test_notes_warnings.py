"""NOTES of every values file: the address with its scheme, and the warnings that apply.

`helm template` prints no notes, so a copy of the chart renders them as an object.
"""

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, FILES, OPERATORS, VALUES, helm, parse

SHOWN = 'kind: Notes\ntext: {{ tpl (.Files.Get "notes.txt") . | toJson }}\n'


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the chart whose notes are an object."""
    copy = tmp_path_factory.mktemp("notes") / "thumbwheel"
    shutil.copytree(CHART, copy)
    (copy / "templates" / "NOTES.txt").rename(copy / "notes.txt")
    (copy / "templates" / "notes.yaml").write_text(SHOWN)
    return copy


@cache
def notes(chart: Path, values: str, *sets: str) -> str:
    words = ["template", "tw", str(chart), "--namespace", "chat", "-f", str(VALUES / values)]
    words += [word for kind in OPERATORS for word in ("--api-versions", kind)]
    words += [word for item in sets for word in ("--set", item)]
    result = helm(*words, "--show-only", "templates/notes.yaml")
    assert result.returncode == 0, result.stderr
    (found,) = parse(result.stdout)
    return str(found["text"])


def merged(values: str) -> Any:
    """Return the values of the chart with those of a file."""

    def over(below: Any, above: Any) -> Any:
        if isinstance(below, dict) and isinstance(above, dict):
            return {**below, **{key: over(below.get(key), above[key]) for key in above}}
        return above

    texts = [(CHART / "values.yaml").read_text(), (VALUES / values).read_text()]
    return over(*(yaml.load(text, yaml.CSafeLoader) for text in texts))


@pytest.mark.parametrize("values", FILES)
def test_addresses_and_schemes_are_those_of_the_values(chart: Path, values: str) -> None:
    text, given = notes(chart, values), merged(values)
    ingress, route = given["ingress"], given["gatewayApi"]["http"]
    balanced = given["publicService"]["type"] == "LoadBalancer"
    plain = ingress["tls"] == "none"
    assert (f"https://{ingress['host']}/" in text) is (ingress["enabled"] and not plain)
    assert (f"http://{ingress['host']}/" in text) is (ingress["enabled"] and plain)
    assert all(host in text for host in route["hosts"] if route["enabled"])
    assert ("of the load balancer" in text) is balanced
    assert ("port-forward" in text) is not (ingress["enabled"] or route["enabled"] or balanced)


@pytest.mark.parametrize("values", FILES)
def test_warnings_are_those_of_the_values(chart: Path, values: str) -> None:
    text, given = notes(chart, values), merged(values)
    policies, models, training = given["networkPolicies"], given["models"], given["training"]
    shared = models["existingClaim"] or "ReadWriteMany" in models["accessModes"]
    loop = training["loop"]
    shared_loop = loop["existingClaim"] or "ReadWriteMany" in loop["accessModes"]
    expected = {
        "networkPolicies.storesAnywhere": policies["enabled"] and policies["storesAnywhere"],
        "toy model": models["initial"].startswith("nano-"),
        "270 million parameters": models["initial"].startswith("small-"),
        "(models.accessModes)": not shared,
        "(training.loop.accessModes)": training["enabled"] and not shared_loop,
        "tls.mode: none": given["tls"]["mode"] == "none",
        "plain HTTP and gRPC": given["publicService"]["type"] == "LoadBalancer",
        "stores are for evaluation": given["evaluation"]["enabled"],
        "Back it up": not given["secrets"]["existing"],
    }
    assert {name: name in text for name in expected} == expected


def test_plain_http_an_open_load_balancer_and_a_toy_model_are_warned_about(chart: Path) -> None:
    text = notes(
        chart,
        "one-node-values.yaml",
        "ingress.enabled=true",
        "ingress.host=chat.example",
        "ingress.tls=none",
        "publicService.type=LoadBalancer",
        "models.initial=nano-0",
        "gatewayApi.http.enabled=true",
        "gatewayApi.http.gateway=public",
        "gatewayApi.http.sectionName=web",
    )
    assert "http://chat.example/" in text
    assert "https://" not in text
    assert "the host names of the Gateway public, by https if its listener web has" in text
    assert "ingress.tls: none" in text
    assert "admits every address" in text
    assert "toy model" in text
    assert "port-forward" not in text


def test_ports_that_are_open_to_every_address_are_listed(chart: Path) -> None:
    lines = notes(chart, "existing-values.yaml").splitlines()
    assert "  session: 5432" in lines
    assert "  feedback: 5432, 9092, 8333" in lines
