"""kube-scheduler with an API server and nodes that exist as objects only.

No kubelet and no controller runs: pods are created directly, and a test reads on which node the
scheduler has put each of them. Needs the programs of the cluster (`make cluster`), but neither root
nor a running cluster.
"""

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.machine.cluster import certificates
from infra.machine.cluster.installation import Tools, find_installed
from infra.machine.cluster.layout import ADMIN, API, NODE_ADDRESS, Layout
from infra.run.supervision.ports import free_port

NAMESPACE = "chat"
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
START_SECONDS, SCHEDULE_SECONDS = 120.0, 60.0
# Admission that needs controllers, a kubelet, or the classes of priorities.
WITHOUT = "ServiceAccount,TaintNodesByCondition,Priority"


@dataclass(frozen=True)
class Scheduler:
    """A running scheduler, used through kubectl as the administrator."""

    tools: Tools
    kubeconfig: Path

    def kubectl(self, *words: str, given: str = "") -> str:
        done = self._run(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def is_ready(self) -> bool:
        return self._run("get", "--raw", "/readyz").returncode == 0

    def apply(self, *objects: Mapping[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": objects}
        self.kubectl("create", "--validate=false", "-f", "-", given=json.dumps(listed))

    def add_nodes(self, zones: Mapping[str, str]) -> None:
        """Add ready nodes, given with their zones."""
        self.apply(*(node(name, zone) for name, zone in zones.items()))

    def schedule(self, *pods: Mapping[str, Any]) -> dict[str, str]:
        """Create pods and return the node of each, "" for a pod that the scheduler refused."""
        self.apply(*pods)
        return self.placed({pod["metadata"]["name"] for pod in pods})

    def placed(self, names: set[str]) -> dict[str, str]:
        """Return the node of each pod when the scheduler has decided on all."""
        end = time.monotonic() + SCHEDULE_SECONDS
        while time.monotonic() < end:
            listed = json.loads(self.kubectl("get", "pods", "--output=json"))["items"]
            found = {item["metadata"]["name"]: item for item in listed}
            if all(is_decided(found[name]) for name in names):
                return {name: found[name]["spec"].get("nodeName", "") for name in names}
            time.sleep(0.2)
        raise AssertionError("the scheduler has not decided on all pods")

    def clear(self) -> None:
        """Delete all pods, nodes and claims."""
        self.kubectl("delete", "pods", "--all", "--grace-period=0", "--force")
        kinds = ("persistentvolumeclaims", "persistentvolumes")
        for kind in kinds:
            self.kubectl("delete", kind, "--all", "--wait=false")
            # No controller removes the finalizers that protect volumes in use.
            for name in self.kubectl("get", kind, "--output=name").split():
                patch = '{"metadata": {"finalizers": null}}'
                self._run("patch", name, "--type=merge", "--patch", patch)
        self.kubectl("delete", "nodes", "--all")

    def _run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                str(self.tools.clients / "kubectl"),
                f"--kubeconfig={self.kubeconfig}",
                f"--namespace={NAMESPACE}",
                *words,
            ],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


def is_decided(pod: Mapping[str, Any]) -> bool:
    conditions = {item["type"]: item["status"] for item in pod["status"].get("conditions", ())}
    return bool(pod["spec"].get("nodeName")) or conditions.get("PodScheduled") == "False"


def node(name: str, zone: str) -> dict[str, Any]:
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "250", "ephemeral-storage": "1Ti"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {HOST: name, ZONE: zone}},
        "status": {
            "capacity": amounts,
            "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def bound_claim(name: str, modes: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a claim and its volume, as a provisioner would have bound them."""
    storage = {"storage": "20Gi"}
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": f"volume-of-{name}"},
        "spec": {
            "accessModes": modes,
            "capacity": storage,
            "storageClassName": "",
            "claimRef": {"namespace": NAMESPACE, "name": name},
            "csi": {"driver": "disks.example", "volumeHandle": name},
        },
    }
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "annotations": {"pv.kubernetes.io/bind-completed": "yes"},
        },
        "spec": {
            "accessModes": modes,
            "storageClassName": "",
            "resources": {"requests": storage},
            "volumeName": f"volume-of-{name}",
        },
    }
    return volume, claim


@contextmanager
def running_scheduler(folder: Path) -> Iterator[Scheduler]:
    """Run etcd, the API server and the scheduler on free ports of the loopback."""
    tools, layout = find_installed(), Layout(folder)
    certificates.write_certificates(layout)
    etcd_port, peers_port, api_port, scheduler_port = (free_port() for _ in range(4))
    api = f"https://127.0.0.1:{api_port}"
    config = certificates.kubeconfig(layout.certificates, ADMIN)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(config).replace(API, api))
    scheduler = Scheduler(tools, kubeconfig)
    etcd = f"http://127.0.0.1:{etcd_port}"
    key = layout.certificates / f"{certificates.SERVICE_ACCOUNTS}.key"
    commands = (
        (
            str(tools.etcd),
            f"--data-dir={folder}/etcd",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls=http://127.0.0.1:{peers_port}",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ),
        (
            str(tools.kubernetes),
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            # Of the Service `kubernetes`, which is not used; a loopback address is refused.
            f"--advertise-address={NODE_ADDRESS}",
            f"--secure-port={api_port}",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--allow-privileged=true",
            "--authorization-mode=RBAC",
            f"--disable-admission-plugins={WITHOUT}",
            f"--tls-cert-file={layout.certificates}/{certificates.API_SERVER}.pem",
            f"--tls-private-key-file={layout.certificates}/{certificates.API_SERVER}.key",
            f"--client-ca-file={layout.certificates}/{certificates.AUTHORITY}.pem",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={key.with_suffix('.pem')}",
            f"--service-account-signing-key-file={key}",
        ),
        (
            str(tools.kubernetes),
            "kube-scheduler",
            f"--kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={scheduler_port}",
            "--leader-elect=false",
        ),
    )
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"{number}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder))
            if number == 1:
                wait_until_ready(scheduler, processes, folder)
                scheduler.kubectl("create", "namespace", NAMESPACE)
        yield scheduler
    finally:
        # Nothing of them is kept; an API server that ends in order waits for etcd and open calls.
        for process in reversed(processes):
            process.kill()
            process.wait()


def wait_until_ready(
    scheduler: Scheduler, processes: Sequence["subprocess.Popen[bytes]"], folder: Path
) -> None:
    """Wait for the API server; an ended process fails with the end of its log."""
    end = time.monotonic() + START_SECONDS
    while not scheduler.is_ready():
        for number, process in enumerate(processes):
            assert process.poll() is None, (folder / f"{number}.log").read_text()[-2000:]
        assert time.monotonic() < end, (folder / "1.log").read_text()[-2000:]
        time.sleep(0.5)
