"""Pods are replaced when a secret changes that they read only when they start."""

import base64
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from infra.service_table import service_table
from tests.charts.cluster_api import serving
from tests.charts.rendering import (
    CHART,
    VALUES,
    Object,
    component,
    errors,
    helm,
    of_kind,
    pods,
    render,
)
from tests.charts.rendering import parse as parsed

ANNOTATION = "thumbwheel/keys"
CONTENTS = {
    "keys": ("principal-key", "master-key", "valkey-secret"),
    "databases": service_table().databases,
    "kafka": ("username", "password", "ca.crt"),
    "bucket": ("access-key", "secret-key"),
    "valkey": ("url",),
    "model-server": ("model-server-key",),
}
# The services that read a key of a secret, by the secret and its key.
READERS = {
    ("keys", "principal-key"): {"gateway", "session", "feedback", "review"},
    ("keys", "master-key"): {"feedback"},
    ("keys", "accepted-master-keys"): {"feedback"},
    ("keys", "valkey-secret"): {"gateway"},
    ("databases", "session"): {"session"},
    ("kafka", "ca.crt"): {"feedback"},
    ("bucket", "secret-key"): {"feedback"},
    ("valkey", "url"): {"gateway"},
    ("model-server", "model-server-key"): {"generator", "predictor"},
    ("keys", "another-key"): set(),
    ("callers", "another-key"): set(),
}
Checksums = Mapping[str, str]


def secret(name: str, data: Mapping[str, str]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": "chat", "annotations": {}},
        "data": dict(data),
    }


def signing_keys() -> list[Object]:
    """Return the secrets of callers that a chart would have created."""
    created = of_kind(render("one-node-values.yaml"), "Secret")
    return [
        secret(component(item), item["data"])
        for item in created
        if component(item) in ("identity", "callers")
    ]


@pytest.fixture(scope="module")
def existing() -> list[Object]:
    made = [
        secret(name, {key: base64.b64encode(b"first").decode() for key in keys})
        for name, keys in CONTENTS.items()
    ]
    return [*made, *signing_keys()]


def upgrade(
    existing: Sequence[Object], folder: Path, *sets: str
) -> subprocess.CompletedProcess[str]:
    """Render an upgrade in a cluster with these secrets."""
    options = [word for item in sets for word in ("--set", item)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", os.devnull)
        patch.setenv("KUBECACHEDIR", str(folder))
        with serving(existing, kinds=render("existing-values.yaml")) as url:
            return helm(
                *("template", "tw", str(CHART), "--namespace", "chat", "--is-upgrade"),
                *("-f", str(VALUES / "existing-values.yaml"), "--dry-run=server"),
                *("--disable-openapi-validation", "--kube-apiserver", url, *options),
            )


def checksums(existing: Sequence[Object], folder: Path, *sets: str) -> Checksums:
    """Return the annotation of each pod of an upgrade in a cluster with these secrets."""
    done = upgrade(existing, folder, *sets)
    assert done.returncode == 0, done.stderr
    return annotations(parsed(done.stdout))


def annotations(objects: Sequence[Object]) -> Checksums:
    return {
        name.split("/")[0]: found
        for name, pod in pods(objects).items()
        if (found := pod["metadata"].get("annotations", {}).get(ANNOTATION))
    }


def changed(existing: Sequence[Object], name: str, key: str) -> list[Object]:
    """Return the secrets with another content of one key."""
    other = base64.b64encode(b"second").decode()
    return [
        secret(name, {**item["data"], key: other}) if item["metadata"]["name"] == name else item
        for item in existing
    ]


@pytest.fixture(scope="module")
def first(existing: list[Object], tmp_path_factory: pytest.TempPathFactory) -> Checksums:
    return checksums(existing, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize(("name", "key"), READERS)
def test_pods_that_read_a_changed_key_are_replaced_and_no_others(
    name: str, key: str, existing: list[Object], first: Checksums, tmp_path: Path
) -> None:
    second = checksums(changed(existing, name, key), tmp_path)
    assert second.keys() == first.keys() >= {"gateway", "guardrail", "predictor"}
    assert {pod for pod in first if first[pod] != second[pod]} == READERS[name, key]


def test_equal_secrets_replace_no_pod(
    existing: list[Object], first: Checksums, tmp_path: Path
) -> None:
    assert checksums(existing, tmp_path) == first


def test_secret_of_the_chart_replaces_no_pod_after_the_installation(
    existing: list[Object], tmp_path: Path
) -> None:
    sets = ("secrets.existing=", "serving.existingSecret=")
    kept = {"helm.sh/resource-policy": "keep"}
    created = [
        {**item, "metadata": {**item["metadata"], "name": name, "annotations": kept}}
        for item, name in (
            (
                next(each for each in existing if each["metadata"]["name"] == "keys"),
                "tw-thumbwheel-keys",
            ),
            (
                next(each for each in existing if each["metadata"]["name"] == "model-server"),
                "tw-thumbwheel-model-server",
            ),
        )
    ]
    installed = checksums(existing, tmp_path / "a", *sets)
    assert checksums([*existing, *created], tmp_path / "b", *sets) == installed


def test_name_of_a_secret_is_compared_without_a_cluster() -> None:
    before = annotations(render("gitops-values.yaml"))
    after = annotations(render("gitops-values.yaml", "valkey.existingSecret=another"))
    assert {pod for pod in before if before[pod] != after[pod]} == {"gateway"}


def test_keys_that_secrets_of_the_cluster_lack_are_reported_together(
    existing: list[Object], tmp_path: Path
) -> None:
    lacking = {"keys": {"master-key", "valkey-secret"}, "identity": {"session.key"}}
    objects = [
        {**item, "data": {key: value for key, value in item["data"].items() if key not in keys}}
        for item in existing
        for keys in [lacking.get(item["metadata"]["name"], set())]
    ]
    found = errors(upgrade(objects, tmp_path, "kafka.bootstrap=").stderr)
    assert [line.partition(":")[0] for line in found] == [
        *("kafka.bootstrap", "secrets.existing", "identity"),
    ]
    assert "keys lacks master-key, valkey-secret" in found[1]
    assert "session.key in identity" in found[2]
