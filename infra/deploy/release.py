"""Helm release of the chart: install or upgrade, test, and create the first API key."""

import json
from collections.abc import Mapping
from types import MappingProxyType

from infra.cluster.errors import ClusterError
from infra.deploy.images import REPOSITORY
from infra.deploy.inside import Inside
from infra.install.environment import ROOT
from training.errors import details_of

CHART = ROOT / "charts" / "thumbwheel"
VALUES = CHART / "ci" / "evaluation-values.yaml"
# Values for this cluster only: its DNS caches answers for a second.
HERE: Mapping[str, object] = MappingProxyType({"rollout": {"minReadySeconds": 6}})
NAME = NAMESPACE = "thumbwheel"
INSTALL_SECONDS = 300


def install(
    inside: Inside, tags: Mapping[str, str], more: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Install or upgrade the chart, and wait until every pod is ready.

    Args:
        more: values that override those of the evaluation.

    Raises:
        ClusterError: a pod did not become ready; the message contains the state of the pods.
    """
    said = [
        f"images.{name}.repository={REPOSITORY}-{name},images.{name}.tag={tag}"
        for name, tag in tags.items()
    ]
    words = ["helm", "upgrade", "--install", NAME, str(CHART), "--namespace", NAMESPACE]
    words += ["--values", str(VALUES), "--values", "-"]
    words += [word for each in said for word in ("--set-string", each)]
    words += ["--wait", "--timeout", f"{INSTALL_SECONDS}s"]
    try:
        inside.run(*words, said=json.dumps({**HERE, **more}), seconds=INSTALL_SECONDS + 60)
    except ClusterError as error:
        raise ClusterError(f"{error}\n{_state_of_pods(inside)}", **details_of(error)) from error


def test(inside: Inside) -> None:
    """Run the tests of the chart.

    Raises:
        ClusterError: a test failed.
    """
    inside.run("helm", "test", NAME, "--namespace", NAMESPACE, "--timeout", "120s")


def owner_key(inside: Inside) -> str:
    """Return an API key with all scopes.

    The key is created once per cluster and stored in a file that only its owner can read.
    """
    kept = inside.layout.state / "owner.key"
    if not kept.exists():
        where = ["kubectl", "--namespace", NAMESPACE, "exec", f"deployment/{NAME}-gateway", "--"]
        command = [
            "python3",
            "-m",
            "services.gateway",
            "keys",
            "create",
            "--user",
            "owner",
            "--scopes",
            "all",
        ]
        said = inside.run(*where, *command)
        kept.touch(mode=0o600)
        kept.write_text(said.strip().splitlines()[-1].split()[-1])
    return kept.read_text()


def door_address(inside: Inside) -> str:
    """Return the address inside the cluster of the Service for external clients."""
    path = "jsonpath={.spec.clusterIP}"
    return inside.run(
        "kubectl", "--namespace", NAMESPACE, "get", "service", f"{NAME}-door", "-o", path
    ).strip()


def _state_of_pods(inside: Inside) -> str:
    pods = json.loads(inside.run("kubectl", "--namespace", NAMESPACE, "get", "pods", "-o", "json"))[
        "items"
    ]
    lines = []
    for pod in pods:
        status = pod["status"]
        for container in [
            *status.get("initContainerStatuses", ()),
            *status.get("containerStatuses", ()),
        ]:
            state = container["state"]
            state = state.get("waiting") or state.get("terminated") or {}
            if state and state.get("reason") != "Completed":
                name = f"{pod['metadata']['name']} {container['name']}"
                lines.append(f"  {name}: {state.get('reason')} {state.get('message', '')}"[:300])
    return "\n".join(lines) or "  every container runs; some are not ready"
