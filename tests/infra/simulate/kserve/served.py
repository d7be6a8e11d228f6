"""Release whose versions are InferenceServices of a simulated KServe, on a test cluster."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from infra.run.deploy import release
from infra.run.deploy.__main__ import HTTP_PORT
from infra.run.deploy.cluster_shell import ClusterShell
from infra.run.deploy.port_forward import forward_port
from infra.run.deploy.release import REPOSITORY, load_images, overlaid
from infra.run.deploy.storage import prepare_storage
from infra.simulate.kserve.running import controller, install_resources
from tests.journeys.client import Client

NAMESPACE = ["--namespace", release.NAMESPACE]
VALUES = release.CHART / "ci" / "kserve-values.yaml"
SCRIPT = Path(__file__).with_name("rollout_inside.py")
IMAGES = ("services", "predictor", "stores")
# A large share, so that few users are enough.
WATCH_SHARE = 0.5
USER = 10001


@dataclass(frozen=True)
class World:
    """Cluster with the chart and a KServe controller that can be stopped."""

    shell: ClusterShell
    kserve: ExitStack
    tags: dict[str, str]
    values: Any

    def get(self, *words: str) -> Any:
        return json.loads(self.shell.run("kubectl", *NAMESPACE, "get", *words, "-o", "json"))

    def services(self) -> dict[str, Any]:
        """Return the InferenceServices by version."""
        return {
            each["metadata"]["annotations"]["thumbwheel/version"]: each
            for each in self.get("inferenceservices")["items"]
        }

    def rollout(self, *words: str) -> Any:
        pod = [
            "exec",
            "--stdin",
            f"deployment/{release.NAME}-generator",
            "--container",
            "generator",
            "--",
        ]
        output = self.shell.run(
            "kubectl", *NAMESPACE, *pod, "python3", "-", *words, stdin=SCRIPT.read_text()
        )
        return json.loads(output)

    def model(self, version: str, source: str = "nano-0") -> Path:
        """Copy a version of the claim as another one; return the folder on this machine."""
        volume = self.get("pvc", f"{release.NAME}-models")["spec"]["volumeName"]
        claim = Path(self.get("pv", volume)["spec"]["local"]["path"])
        shutil.copytree(claim / source, claim / version)
        manifest = json.loads((claim / version / "manifest.json").read_text())
        (claim / version / "manifest.json").write_text(json.dumps(manifest | {"version": version}))
        for path in (claim / version, *(claim / version).iterdir()):
            os.chown(path, USER, USER)
        return claim / version

    def install(self) -> None:
        """Install or upgrade to the current values."""
        release.install(self.shell, self.tags, overlaid(release.WITHOUT_QUOTAS, self.values))

    def change(self, values: Mapping[str, Any]) -> None:
        """Change values for the next installation."""
        self.values.update(overlaid(self.values, values))

    @property
    def client(self) -> Client:
        """A client with the owner's key, outside the cluster."""
        port = forward_port(self.shell, 0, release.gateway_address(self.shell), HTTP_PORT)
        return Client(f"http://127.0.0.1:{port}", release.owner_key(self.shell))

    def chat(self) -> tuple[int, Any]:
        body = {
            "model": "thumbwheel",
            "messages": [{"role": "user", "content": "Hello, how are you?"}],
        }
        return self.client.call("POST", "/v1/chat/completions", body)


def until(done: Callable[[], Any], seconds: float = 90.0) -> Any:
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "it does not come about"
        time.sleep(1)
    return found


@contextmanager
def empty_release(shell: ClusterShell, more_images: Sequence[str] = ()) -> Iterator[World]:
    """Prepare a cluster with the simulated controller, without a release.

    Args:
        more_images: images besides those of the services, loaded without their packages.
    """
    values = yaml.safe_load(VALUES.read_text())
    # The script in the pod calls the generator as training and as the gateway.
    values["identity"] = {"mode": "none"}
    values["services"] = {"generator": {"settings": {"watch_share": WATCH_SHARE}}}
    tags = load_images(shell, (*IMAGES, *more_images), print, bare=more_images)
    storage = prepare_storage(shell.layout, release.NAMESPACE)
    shell.run("kubectl", "apply", "--server-side", "-f", "-", stdin=storage)
    install_resources(shell)
    with ExitStack() as kserve:
        kserve.enter_context(controller(shell, f"{REPOSITORY}-services:{tags['services']}"))
        yield World(shell, kserve, tags, values)


def pods_of(world: World, service: Any) -> list[Any]:
    label = f"serving.kserve.io/inferenceservice={service['metadata']['name']}"
    return list(world.get("pods", "--selector", label)["items"])


def served_pods(world: World) -> dict[str, set[str]]:
    """Return the uids of the pods by version."""
    return {
        version: {pod["metadata"]["uid"] for pod in pods_of(world, service)}
        for version, service in world.services().items()
    }
