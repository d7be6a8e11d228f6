"""Helm release of the chart: load images, install or upgrade, test, create the first API key.

Images are built from the clone and loaded into the cluster's containerd only if they have changed.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from infra.install.environment import ROOT
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.node import import_command
from infra.machine.images.archive import write_archive
from infra.machine.images.build import built_image
from infra.machine.images.catalogue import read_catalogue
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.embedded.layout import UNLIMITED_QUOTAS
from training.errors import details_of

REPOSITORY = "localhost/thumbwheel"
LOADED = "loaded-images.json"
TAG_DIGITS = 16


def load_images(
    shell: ClusterShell,
    names: Sequence[str],
    say: Callable[[str], None],
    bare: Collection[str] = (),
) -> dict[str, str]:
    """Build images and load those that are new to this cluster.

    Args:
        bare: names of images to build without their packages.

    Returns the tags by name. A tag is derived from the digest of the image.
    """
    catalogue, note = read_catalogue(), shell.layout.state / LOADED
    loaded = json.loads(note.read_text()) if note.exists() else {}
    for name in names:
        say(f"building the image {name}")
        with built_image(catalogue.images[name], catalogue, say, bare=name in bare) as image:
            tag = image.digest.removeprefix("sha256:")[:TAG_DIGITS]
            if loaded.get(name) != tag:
                archive = shell.layout.state / "image.tar"
                write_archive(archive, f"{REPOSITORY}-{name}:{tag}", image)
                say(f"loading the image ({archive.stat().st_size / 1e6:.0f} MB)")
                shell.run(*import_command(archive))
                archive.unlink()
                loaded[name] = tag
                note.write_text(json.dumps(loaded))
    return {name: loaded[name] for name in names}


CHART = ROOT / "charts" / "thumbwheel"
VALUES = CHART / "ci" / "evaluation-values.yaml"
# Values for this cluster only, whose DNS caches answers for a second.
LOCAL_VALUES: Mapping[str, object] = MappingProxyType(
    {
        "rollout": {"minReadySeconds": 6},
        # The image of the small model would take minutes to load into each new cluster.
        "models": {"initial": "nano-0", "contextTokens": 256, "replyTokens": 64},
    }
)
WITHOUT_QUOTAS: Mapping[str, object] = MappingProxyType(
    {"services": {name: {"settings": dict(quota)} for name, quota in UNLIMITED_QUOTAS.items()}}
)
NAME = NAMESPACE = "thumbwheel"
INSTALL_SECONDS = 300


def install(
    shell: ClusterShell, tags: Mapping[str, str], more: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Install or upgrade the chart, and wait until every pod is ready.

    Args:
        more: values that override those of the evaluation.

    Raises:
        ClusterError: a pod did not become ready; the message contains the state of the pods.
    """
    image_settings = [
        f"images.{name}.repository={REPOSITORY}-{name},images.{name}.tag={tag}"
        for name, tag in tags.items()
    ]
    words = ["helm", "upgrade", "--install", NAME, str(CHART), "--namespace", NAMESPACE]
    words += ["--values", str(VALUES), "--values", "-"]
    words += [word for each in image_settings for word in ("--set-string", each)]
    words += ["--wait", "--timeout", f"{INSTALL_SECONDS}s"]
    try:
        shell.run(
            *words, stdin=json.dumps(overlaid(LOCAL_VALUES, more)), seconds=INSTALL_SECONDS + 60
        )
    except ClusterError as error:
        # Add the containers that wait or have failed to the message.
        listed = shell.run("kubectl", "--namespace", NAMESPACE, "get", "pods", "-o", "json")
        problems = []
        for pod in json.loads(listed)["items"]:
            status = pod["status"]
            starting = status.get("initContainerStatuses", ())
            for container in [*starting, *status.get("containerStatuses", ())]:
                state = container["state"]
                state = state.get("waiting") or state.get("terminated") or {}
                if state and state.get("reason") != "Completed":
                    name = f"{pod['metadata']['name']} {container['name']}"
                    line = f"  {name}: {state.get('reason')} {state.get('message', '')}"
                    problems.append(line[:300])
        state_of_pods = "\n".join(problems) or "  every container runs; some are not ready"
        raise ClusterError(f"{error}\n{state_of_pods}", **details_of(error)) from error


def overlaid(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge values as Helm merges values files."""
    both = {
        key: overlaid(below[key], value)
        for key, value in above.items()
        if isinstance(value, Mapping) and isinstance(below.get(key), Mapping)
    }
    return {**below, **above, **both}


def test(shell: ClusterShell) -> None:
    """Run the tests of the chart.

    Raises:
        ClusterError: a test failed.
    """
    shell.run("helm", "test", NAME, "--namespace", NAMESPACE, "--timeout", "120s")


def owner_key(shell: ClusterShell) -> str:
    """Return an API key with all scopes.

    The key is created once per cluster and stored in a file that only its owner can read.
    """
    file = shell.layout.state / "owner.key"
    if not file.exists():
        in_gateway = [
            "kubectl",
            "--namespace",
            NAMESPACE,
            "exec",
            f"deployment/{NAME}-gateway",
            "--",
        ]
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
        output = shell.run(*in_gateway, *command)
        file.touch(mode=0o600)
        file.write_text(output.strip().splitlines()[-1].split()[-1])
    return file.read_text()


def gateway_address(shell: ClusterShell) -> str:
    """Return the address inside the cluster of the Service for external clients."""
    path = "jsonpath={.spec.clusterIP}"
    return shell.run(
        "kubectl", "--namespace", NAMESPACE, "get", "service", f"{NAME}-public", "-o", path
    ).strip()
