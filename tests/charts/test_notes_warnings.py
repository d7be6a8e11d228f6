"""NOTES of every values file: the address with its scheme, and the warnings that apply.

`helm template` prints no notes, so a copy of the chart renders them as an object.
"""

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, FILES, OPERATORS, VALUES, helm, parse, render

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
    loop, backup = training["loop"], given["backup"]
    external = given["serving"]["mode"] == "external"
    place = (backup["claim"]["existingClaim"], backup["bucket"]["endpoint"])
    shared_loop = loop["existingClaim"] or "ReadWriteMany" in loop["accessModes"]
    expected = {
        "networkPolicies.storesAnywhere": policies["enabled"] and policies["storesAnywhere"],
        "addresses of networkPolicies.stores": policies["enabled"] and bool(policies["stores"]),
        "toy model": not external and models["initial"].startswith("nano-"),
        "270 million parameters": not external and models["initial"].startswith("small-"),
        "(models.accessModes)": not external and not shared,
        "(training.loop.accessModes)": training["enabled"] and not shared_loop,
        "tls.mode: none": given["tls"]["mode"] == "none",
        "plain HTTP and gRPC": given["publicService"]["type"] == "LoadBalancer",
        "stores are for evaluation": given["evaluation"]["enabled"],
        "Back it up": not given["secrets"]["existing"],
        "does not back up its databases": not backup["enabled"],
        "databases are backed up on schedule": backup["enabled"],
        "lost together": backup["enabled"] and not any((*place, backup["bucket"]["name"])),
        "backups are not encrypted": backup["enabled"] and not backup["encryptionSecret"],
    }
    assert {name: name in text for name in expected} == expected
    on_one_node = expected["(models.accessModes)"] or expected["(training.loop.accessModes)"]
    assert text.count("loss stops") == on_one_node
    assert "The pods of  " not in text


def test_an_evaluation_with_backups_names_their_place_and_the_commands(chart: Path) -> None:
    text = notes(chart, "evaluation-values.yaml", "backup.enabled=true")
    assert "does not back up" not in text
    assert "without backup" not in text
    assert "to backups/chat/tw/ of the bucket thumbwheel" in text
    assert "--from=cronjob/tw-thumbwheel-backup " in text
    assert "docs/kubernetes.md, Back up and Restore" in text


def test_a_restore_names_its_job_and_the_next_step(chart: Path) -> None:
    sets = ("backup.restore.from=latest", "serviceDefaults.replicas=0")
    text = notes(chart, "existing-values.yaml", *sets)
    (job,) = re.findall(r"wait job/(\S+)", text)
    assert job in {item["metadata"]["name"] for item in render("existing-values.yaml", *sets)}
    assert "upgrade without backup.restore.from" in text


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
