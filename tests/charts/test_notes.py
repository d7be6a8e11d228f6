"""Notes that Helm prints after an installation, compared with the objects of the rendering.

`helm install --dry-run` has no `--api-versions`, so the notes are rendered as a ConfigMap of a copy
of the chart.
"""

import re
import shutil
from pathlib import Path

import pytest

from tests.charts.rendering import (
    CHART,
    OPERATORS,
    VALUES,
    Object,
    every_file,
    helm,
    of_kind,
    parse,
)

KINDS = {
    "cronjob": "CronJob",
    "deployment": "Deployment",
    "job": "Job",
    "service": "Service",
    "statefulset": "StatefulSet",
}
CONFIG_MAP = """apiVersion: v1
kind: ConfigMap
metadata: {name: notes-of-the-test}
data: {notes: {{ tpl (.Files.Get "files/notes.tpl") . | toJson }}}
"""


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the chart with its notes as a ConfigMap."""
    copied = shutil.copytree(CHART, tmp_path_factory.mktemp("notes") / "thumbwheel")
    shutil.copy(copied / "templates" / "NOTES.txt", copied / "files" / "notes.tpl")
    (copied / "templates" / "notes.yaml").write_text(CONFIG_MAP)
    return copied


def notes_of(chart: Path, values: str, *sets: str) -> tuple[str, list[Object]]:
    """Return the notes, and the other objects of the rendering."""
    kinds = [argument for item in OPERATORS for argument in ("--api-versions", item)]
    options = [argument for item in sets for argument in ("--set", item)]
    result = helm(
        "template", "tw", str(chart), "-n", "chat", "-f", str(VALUES / values), *kinds, *options
    )
    assert result.returncode == 0, result.stderr
    objects = parse(result.stdout)
    (own,) = [item for item in objects if item["metadata"]["name"] == "notes-of-the-test"]
    return own["data"]["notes"], [item for item in objects if item is not own]


@every_file("evaluation-values.yaml", "existing-values.yaml", "high-availability-values.yaml")
def test_notes_name_objects_that_exist(chart: Path, values: str) -> None:
    notes, objects = notes_of(chart, values)
    named = re.findall(rf"\b({'|'.join(KINDS)})/([a-z0-9-]+)", notes)
    assert named
    for kind, name in named:
        assert name in {item["metadata"]["name"] for item in of_kind(objects, KINDS[kind])}, name
    assert "<no value>" not in notes
    assert not re.search(r"\n\n\n", notes)


@every_file("evaluation-values.yaml", "existing-values.yaml", "high-availability-values.yaml")
def test_notes_name_the_addresses_of_the_page(chart: Path, values: str) -> None:
    notes, objects = notes_of(chart, values)
    hosts = {rule["host"] for item in of_kind(objects, "Ingress") for rule in item["spec"]["rules"]}
    hosts |= {
        host for item in of_kind(objects, "HTTPRoute") for host in item["spec"].get("hostnames", ())
    }
    assert all(host in notes for host in hosts)
    assert ("port-forward" in notes) == (not of_kind(objects, "Ingress", "HTTPRoute"))
