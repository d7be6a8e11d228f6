"""Admission of every object of every values file by a real API server.

All fields must be known, including those of other operators' resources with their own definitions.
All pods must satisfy the restricted standard.
"""

import base64
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.install.definitions.in_cluster import apply_definitions
from infra.install.definitions.installation import find_installed as find_definitions
from infra.machine.cluster.errors import ClusterError
from infra.machine.kuberay.installation import find_installed as find_kuberay
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.deploy.storage import RESTRICTED
from tests.charts.rendering import CHART, VALUES, Object, ray_job, render
from tests.infra.run.deploy.clusters import empty_cluster
from tests.support.errors import refused

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(300)]
FEW = "one-node-values.yaml"
# Template of charts before 2026-11-26: the secret was an ordinary object, so every revision
# contains its values.
EARLIER = """
{{- $name := include "thumbwheel.secret" . }}
{{- $found := lookup "v1" "Secret" .Release.Namespace $name | default dict }}
{{- $data := $found.data | default dict }}
apiVersion: v1
kind: Secret
metadata: {name: {{ include "thumbwheel.secret" . }}, annotations: {helm.sh/resource-policy: keep}}
data:
  {{- range list "principal-key" "master-key" "valkey-secret" }}
  {{ . }}: {{ index $data . | default (randAlphaNum 64 | b64enc) }}
  {{- end }}
"""
MAKERS = ("cert-manager", "gateway-api", "keda", "kserve-0_20", "prometheus-operator", "strimzi")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterShell]:
    """Start an API server with the resources of all operators and without workloads."""
    state = tmp_path_factory.mktemp("admission") / "cluster"
    with empty_cluster(state, "the chart's objects are not shown to a real API server") as cluster:
        namespace = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": "chat", "labels": RESTRICTED},
        }
        cluster.run("kubectl", "apply", "-f", "-", stdin=json.dumps(namespace))
        apply_definitions(
            cluster, *(find_definitions() / maker for maker in MAKERS), find_kuberay().definitions
        )
        yield cluster


def try_apply(shell: ClusterShell, objects: Sequence[Object]) -> str:
    """Apply objects in a server-side dry run and return the output."""
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    command = (
        "kubectl apply --server-side --dry-run=server --validate=strict --namespace chat -f - 2>&1"
    )
    return shell.run("sh", "-c", command, stdin=listed)


@pytest.mark.parametrize("values", sorted(path.name for path in VALUES.glob("*-values.yaml")))
def test_every_object_is_accepted_without_warning(shell: ClusterShell, values: str) -> None:
    objects = [*render(values), *([job] if (job := ray_job(render(values))) else [])]
    output = try_apply(shell, objects).splitlines()
    assert [
        line for line in output if not line.endswith("serverside-applied (server dry run)")
    ] == []
    assert len(output) == len(objects)


@pytest.mark.parametrize("kind", ["KafkaUser", "ScaledObject", "PodMonitor", "HTTPRoute", "RayJob"])
def test_unknown_field_is_rejected(shell: ClusterShell, kind: str) -> None:
    found = {
        each["kind"]: each
        for name in ("strimzi", "everything")
        for each in render(f"{name}-values.yaml")
    }
    found = {**found, "RayJob": ray_job(render("ray-values.yaml"))}[kind]
    with refused(ClusterError, reason="FAILED") as caught:
        try_apply(shell, [{**found, "spec": {**found["spec"], "notAField": 1}}])
    assert "notAField" in caught.value.text


def test_oldest_kserve_accepts_the_same_objects(shell: ClusterShell) -> None:
    apply_definitions(shell, find_definitions() / "kserve-0_15")
    for path in VALUES.glob("*-values.yaml"):
        served = [
            found
            for found in render(path.name)
            if found["apiVersion"].startswith("serving.kserve.io/")
        ]
        if served:
            try_apply(shell, served)


@dataclass(frozen=True)
class Release:
    """Release without pods, for the agreement of the chart and both Helm versions on objects."""

    shell: ClusterShell
    helm: str
    name: str

    def upgrade(self, chart: Path, *sets: str) -> None:
        none = ["serviceDefaults.replicas=0", "services.gateway.podAnnotations.by=helm", *sets]
        words = ["upgrade", "--install", self.name, str(chart), "--values", str(VALUES / FEW)]
        self.run(*words, *(word for each in none for word in ("--set", each)))

    def run(self, *words: str) -> str:
        return self.shell.run(self.helm, "--namespace", "chat", *words)

    def kubectl(self, *words: str) -> str:
        return self.shell.run("kubectl", "--namespace", "chat", *words)

    def keys(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(
            self.kubectl("get", "secret", self.secret, "-o", "json")
        )["data"]
        return found

    @property
    def secret(self) -> str:
        return f"{self.name}-thumbwheel-keys"

    @property
    def identity_secrets(self) -> list[str]:
        return [f"{self.name}-thumbwheel-{kind}" for kind in ("identity", "callers")]

    def identity(self) -> tuple[dict[str, str], list[dict[str, str]]]:
        """Return the settings of the identity in a service, and the content of its secrets."""
        found = self.kubectl("get", "deployment", f"{self.name}-thumbwheel-session", "-o", "json")
        (container,) = json.loads(found)["spec"]["template"]["spec"]["containers"]
        settings = {
            item["name"].removeprefix("TW_SESSION_IDENTITY_"): item["value"]
            for item in container["env"]
            if "_IDENTITY_" in item["name"]
        }
        secrets = json.loads(self.kubectl("get", "secret", *self.identity_secrets, "-o", "json"))
        return settings, [item["data"] for item in secrets["items"]]

    def rotate(self) -> dict[str, str]:
        """Rotate a key as the operating page does; return the expected content of the secret."""
        new = {"valkey-secret": base64.b64encode(os.urandom(32)).decode()}
        self.kubectl(
            "patch", "secret", self.secret, "--type", "merge", "--patch", json.dumps({"data": new})
        )
        return {**self.keys(), **new}


@pytest.fixture(params=["helm 4", "helm 3"])
def release(shell: ClusterShell, request: pytest.FixtureRequest) -> Iterator[Release]:
    """Release managed by Helm 4 and by Helm 3, removed afterwards."""
    helm = "helm" if request.param == "helm 4" else str(shell.tools.helm3 / "helm")
    release = Release(shell, helm, "rotated")
    yield release
    release.run("uninstall", release.name)
    release.kubectl("delete", "secret", release.secret)
    release.kubectl("delete", "secret", *release.identity_secrets, "--ignore-not-found")


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """Copy of the chart with the earlier template of the secret."""
    chart = tmp_path / "thumbwheel"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "secrets.yaml").write_text(EARLIER)
    return chart


def test_rollback_does_not_restore_a_secret(release: Release, earlier: Path) -> None:
    release.upgrade(earlier)
    first = release.keys()
    release.upgrade(CHART)
    assert release.keys() == first, "it left the manifest, and stays"
    release.upgrade(CHART, "publicService.httpPort=81")
    rotated = release.rotate()
    release.run("rollback", release.name)
    assert release.keys() == rotated != first
    # The revision of the earlier chart contains the first secret: Helm refuses the rollback, and an
    # upgrade is possible.
    with refused(ClusterError, field=release.helm, reason="FAILED") as caught:
        release.run("rollback", release.name, "1")
    # The text is Helm's.
    assert re.search(rf'Secret with the name "{release.secret}"( not)? found', caught.value.text)
    for chart in (earlier, CHART):
        release.upgrade(chart)
        assert release.keys() == rotated
    release.run("uninstall", release.name)
    release.upgrade(CHART)
    assert release.keys() == rotated


def test_upgrade_stops_if_a_secret_would_be_lost_or_is_incomplete(
    release: Release, earlier: Path
) -> None:
    release.upgrade(earlier)
    release.kubectl("annotate", "secret", release.secret, "helm.sh/resource-policy-")
    first = release.keys()
    with refused(ClusterError, field=release.helm, reason="FAILED") as caught:
        release.upgrade(CHART)
    assert f"annotate secret {release.secret} helm.sh/resource-policy=keep" in caught.value.text
    release.kubectl("annotate", "secret", release.secret, "helm.sh/resource-policy=keep")
    release.upgrade(CHART)
    assert release.keys() == first
    release.kubectl(
        "patch",
        "secret",
        release.secret,
        "--type",
        "merge",
        "--patch",
        '{"data": {"master-key": null}}',
    )
    with refused(ClusterError, field=release.helm, reason="FAILED") as caught:
        release.upgrade(CHART)
    assert {release.secret, "master-key"} <= set(re.findall(r"[\w.-]+\w", caught.value.text))


def test_upgrade_that_creates_the_keys_of_callers_accepts_unsigned_calls_once(
    release: Release,
) -> None:
    """The pods of the previous version sign no calls until they are replaced."""
    release.upgrade(CHART, "identity.mode=none")
    release.upgrade(CHART)
    settings, secrets = release.identity()
    assert settings == {"KEY": "/identity/session.key", "KEYS": "/callers", "REQUIRED": "false"}
    release.upgrade(CHART)
    assert release.identity() == ({"KEY": "/identity/session.key", "KEYS": "/callers"}, secrets)
    release.run("rollback", release.name)
    assert release.identity() == (settings, secrets)
    release.kubectl("delete", "secret", release.identity_secrets[1])
    with refused(ClusterError, field=release.helm, reason="FAILED") as caught:
        release.upgrade(CHART)
    assert set(release.identity_secrets) <= set(re.findall(r"[\w.-]+\w", caught.value.text))
    release.kubectl("delete", "secret", release.identity_secrets[0])
    release.upgrade(CHART)
    assert release.identity()[1] != secrets


def test_helm_4_upgrades_and_rolls_back_a_release_of_helm_3(shell: ClusterShell) -> None:
    before, now = (Release(shell, helm, "tw") for helm in (str(shell.tools.helm3 / "helm"), "helm"))
    before.upgrade(CHART)
    first = before.keys()
    now.upgrade(CHART, "publicService.httpPort=81")
    now.run("rollback", "tw", "1")
    observed = json.loads(now.run("history", "tw", "--output", "json"))
    assert [each["status"] for each in observed] == ["superseded", "superseded", "deployed"]
    assert now.keys() == first
    public = now.kubectl("get", "service", "tw-thumbwheel-public", "-o", "json")
    assert [port["port"] for port in json.loads(public)["spec"]["ports"]] == [80, 50051]
