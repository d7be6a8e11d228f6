"""Resource definitions used by tests are complete and contain the chart's versions.

Module downloads are compared with the lock; only listed files are copied.
"""

import json
import os
from pathlib import Path

import pytest
import yaml

from infra.install.definitions.installation import (
    MODULES,
    Module,
    fetch_definitions,
    find_installed,
    read_modules,
)
from infra.machine.servers.errors import ServerError
from tests.support.errors import refused

WRITTEN = {
    "cert-manager": {"Certificate": "v1", "Issuer": "v1"},
    "gateway-api": {"GRPCRoute": "v1", "HTTPRoute": "v1"},
    "keda": {"ScaledObject": "v1alpha1"},
    "kserve-0_15": {"InferenceService": "v1beta1", "ServingRuntime": "v1alpha1"},
    "kserve-0_20": {"InferenceService": "v1beta1", "ServingRuntime": "v1alpha1"},
    "prometheus-operator": {"PodMonitor": "v1", "PrometheusRule": "v1"},
    "strimzi": {"Kafka": "v1", "KafkaNodePool": "v1", "KafkaTopic": "v1", "KafkaUser": "v1"},
}


# Parsing KServe's definitions takes a second, so the older version is a long test.
@pytest.mark.parametrize(
    "maker",
    [
        pytest.param(name, marks=pytest.mark.long) if name == "kserve-0_15" else name
        for name in WRITTEN
    ],
)
def test_definitions_serve_the_versions_of_the_chart(maker: str) -> None:
    found = {}
    for path in (find_installed() / maker).iterdir():
        spec = yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]
        found[spec["names"]["kind"]] = {
            version["name"] for version in spec["versions"] if version["served"]
        }
    assert found.keys() == WRITTEN[maker].keys()
    assert all(version in found[kind] for kind, version in WRITTEN[maker].items())


MODULE = Module("things", "example.test/things", "v1.2.3", "h1:right", ["crd/thing.yaml"])


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Output of a fake `go`; a test may change the output first."""
    sources = tmp_path / "sources"
    (sources / "crd").mkdir(parents=True)
    for name in ("thing", "other"):
        (sources / "crd" / f"{name}.yaml").write_text(name)
    told = {"Dir": str(sources), "Sum": "h1:right"}
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(
        "#!/bin/sh\n[ $1 = version ] && echo go version go1.99.0 linux/amd64 "
        f"|| cat {tmp_path}/answer.json\n"
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    return told


def fetch(tmp_path: Path, told: dict[str, str]) -> Path:
    (tmp_path / "answer.json").write_text(json.dumps(told))
    fetch_definitions(MODULE, tmp_path / "modules", tmp_path / "found")
    return tmp_path / "found"


def test_only_listed_files_are_copied(tmp_path: Path, answer: dict[str, str]) -> None:
    assert {path.name: path.read_text() for path in fetch(tmp_path, answer).iterdir()} == {
        "thing.yaml": "thing"
    }


def test_module_with_wrong_hash_is_rejected(tmp_path: Path, answer: dict[str, str]) -> None:
    with refused(ServerError, field=MODULE.module, reason="MISMATCH", limit="h1:right") as caught:
        fetch(tmp_path, answer | {"Sum": "h1:wrong"})
    assert "h1:wrong" in caught.value.text
    assert not (tmp_path / "found").exists()


def test_download_error_contains_the_message_of_go(tmp_path: Path, answer: dict[str, str]) -> None:
    with refused(ServerError, field=MODULE.module, reason="UNREACHABLE") as caught:
        fetch(tmp_path, {"Error": "no such module"})
    assert all(words in caught.value.text for words in (MODULE.version, "no such module"))


def test_lock_lists_version_hash_and_files_of_modules() -> None:
    modules = read_modules(MODULES)
    assert {module.name.partition("-")[0] for module in modules} == {
        "cert",
        "kserve",
        "keda",
        "gateway",
        "prometheus",
    }
    assert all(
        module.sum.startswith("h1:") and module.version.startswith("v") and module.files
        for module in modules
    )
