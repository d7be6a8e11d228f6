"""Release installed by `make deploy`: chat from outside, and stability of unchanged pods."""

import json

import pytest

from infra.run.deploy import release
from infra.run.deploy.release import LOADED
from tests.infra.run.deploy.deployed import SERVICES, STORES, Deployed, ask

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(900)]


def test_every_pod_runs_without_restarts(deployed: Deployed) -> None:
    pods = deployed.objects("pods", "--field-selector=status.phase!=Succeeded")
    assert len(pods) >= 11
    restarts = {
        pod["metadata"]["name"]: sum(
            each["restartCount"] for each in pod["status"]["containerStatuses"]
        )
        for pod in pods
    }
    assert {name: count for name, count in restarts.items() if count} == {}


def test_user_outside_the_cluster_chats(deployed: Deployed) -> None:
    text, _ = ask(deployed.person(), "Hello, how are you?")
    assert text


def test_unchanged_install_replaces_no_pod(deployed: Deployed) -> None:
    before = deployed.pods(*SERVICES, *STORES, "predictor")
    assert len(before) >= 11
    loaded = json.loads((deployed.shell.layout.state / LOADED).read_text())
    release.install(deployed.shell, loaded, release.WITHOUT_QUOTAS)
    assert deployed.pods(*SERVICES, *STORES, "predictor") == before
    assert ask(deployed.person(), "And again?")[0]


def test_install_causes_no_pod_security_warning(deployed: Deployed) -> None:
    path = deployed.shell.layout.state / "manifest.yaml"
    path.write_text(deployed.helm("get", "manifest", deployed.name))
    apply = (
        f"kubectl apply --dry-run=server --namespace {deployed.namespace} -f {path} 2>&1 >/dev/null"
    )
    assert "PodSecurity" not in deployed.shell.run("sh", "-c", apply)
