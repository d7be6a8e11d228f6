"""Real cluster: pods, services, policies, and no traces on the machine.

`make cluster-test` runs the module. Without a possible cluster the tests fail, unless CLUSTER=skip
is set.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from infra.machine.cluster import control_groups, lifecycle
from infra.machine.cluster.installation import Tools, find_installed
from infra.machine.cluster.layout import Layout
from infra.machine.cluster.namespaces import KUBELET_SETTINGS, SETTINGS
from infra.machine.cluster.policies.objects import (
    IpBlock,
    NamedPort,
    Pod,
    PodPeer,
    Policy,
    Port,
    Rule,
    Selector,
)
from infra.machine.cluster.policies.rules import ClusterState, render
from infra.machine.cluster.programs import GoProgram, build
from infra.machine.images.archive import write_program_image
from infra.machine.servers.installation import install_missing

HERE = Path(__file__).parent
PROBE = GoProgram("probe", HERE / "probe", HERE / "probe")
# Folders in which programs of a cluster leave files outside their namespaces.
FOLDERS = (
    "/",
    "/etc",
    "/opt",
    "/usr/lib",
    "/usr/libexec",
    "/var",
    "/var/lib",
    "/var/log",
    "/run",
    str(Path.home()),
)
# Counters, and settings that the kernel writes itself.
UNSTABLE = (
    "fs/dentry-state",
    "fs/file-nr",
    "fs/inode-nr",
    "fs/inode-state",
    "fs/quota",
    "kernel/ns_last_pid",
    "kernel/pty/nr",
)
UNSTABLE += (
    "net/netfilter/nf_conntrack_count",
    "kernel/random",
    "fs/aio-nr",
    "kernel/perf_event_max_sample_rate",
    "kernel/keys/",
    "fs/binfmt_misc",
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


class Cluster:
    """Cluster under test, used through the commands of operators."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def command(self, word: str, *words: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "infra.machine.cluster",
            word,
            "--state",
            str(self.layout.state),
            *words,
        ]

    def call(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False)

    def try_kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.call("exec", "--", "kubectl", *words)

    def kubectl(self, *words: str) -> str:
        done = self.try_kubectl(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def in_pod(self, pod: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.try_kubectl("exec", "--namespace", "demo", pod, "--", "/probe", *words)

    def addresses(self, *, ready: bool) -> set[str]:
        """Return the addresses of the servers in the Service."""
        slices = json.loads(
            self.kubectl(
                "get",
                "endpointslices",
                "-n",
                "demo",
                "-l",
                "kubernetes.io/service-name=server",
                "-o",
                "json",
            )
        )
        endpoints = [endpoint for found in slices["items"] for endpoint in found["endpoints"] or ()]
        return {
            endpoint["addresses"][0]
            for endpoint in endpoints
            if endpoint["conditions"]["ready"] is ready
        }


def settings() -> dict[str, str]:
    """Return all settings of the machine that are stable."""
    found = {}
    for file in SETTINGS.rglob("*"):
        name = str(file.relative_to(SETTINGS))
        if file.is_file() and os.access(file, os.R_OK) and not name.startswith(UNSTABLE):
            try:
                found[name] = file.read_text()
            except OSError:  # write-only settings
                continue
    return found


def of_kubelet() -> dict[str, str]:
    return {name: (SETTINGS / name).read_text() for name in KUBELET_SETTINGS}


def machine() -> dict[str, str]:
    """Return the objects that a cluster could leave on the machine."""
    mounts = control_groups.MOUNTS.read_text()
    groups = [folder / group.name for folder in control_groups.hierarchies(mounts)
              for group in folder.iterdir() if group.name.startswith("thumbwheel-")]  # fmt: skip
    tools = find_installed()
    environment = {**os.environ, **tools.environment}
    shown = {
        words: subprocess.run(
            words.split(), env=environment, capture_output=True, text=True, check=True
        ).stdout
        for words in ("ip -o link", "ip -o addr", "ip route", "nft list ruleset")
    }
    return {
        **shown,
        "mounts": control_groups.MOUNTS.read_text(),
        "groups": str(sorted(groups)),
        "kubelet": str(of_kubelet()),
    }


def processes(layout: Layout) -> list[str]:
    """Return the processes of the cluster.

    Components have its folder in the command line; pods are in its control group.
    """
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                groups = (folder / "cgroup").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(layout.state) in line or layout.control_group in groups:
                found.append(line)
    return found


def eventually(
    test: Callable[[], bool], show: Callable[[], object] = str, seconds: float = 30.0
) -> None:
    end = time.monotonic() + seconds
    while not test():
        assert time.monotonic() < end, f"it did not happen: {show()}"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def tools() -> Tools:
    if os.environ.get("CLUSTER") == "skip":
        pytest.skip("CLUSTER=skip")
    lifecycle.check_requirements()
    return find_installed()


@pytest.fixture(scope="module")
def layout(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return Layout(tmp_path_factory.mktemp("cluster") / "state")


@pytest.fixture(scope="module")
def before(tools: Tools) -> dict[str, str]:
    return machine()


@pytest.fixture(scope="module")
def settings_before() -> dict[str, str]:
    return settings()


@pytest.fixture(scope="module")
def cluster(
    layout: Layout,
    before: dict[str, str],
    settings_before: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    running = Cluster(layout)
    install_missing([PROBE.part("the tests' program", lambda folder: build(PROBE, folder))], print)
    image = tmp_path_factory.mktemp("images") / "probe.tar"
    write_program_image(PROBE.program, "localhost/probe:1", image)
    try:
        up = running.call("up")
        assert up.returncode == 0, up.stderr + up.stdout
        loaded = running.call("load", str(image))
        assert loaded.returncode == 0, loaded.stderr
        running.kubectl("apply", "-f", str(HERE / "probe.yaml"))
        running.kubectl("rollout", "status", "-n", "demo", "deployment/server", "--timeout=60s")
        running.kubectl(
            "wait",
            "-n",
            "demo",
            "--for=condition=Ready",
            "pod/friend",
            "pod/stranger",
            "--timeout=60s",
        )
        yield running
    finally:
        lifecycle.down(layout)


@pytest.fixture
def fresh(tools: Tools, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that is not started; killed after the test in any case."""
    cluster = Cluster(Layout(tmp_path / "state"))
    try:
        yield cluster
    finally:
        lifecycle.down(cluster.layout)


def test_restricted_pods_run_and_privileged_pods_are_rejected(cluster: Cluster) -> None:
    assert cluster.kubectl("logs", "-n", "demo", "friend") == "serving"
    refused = cluster.try_kubectl("run", "root", "-n", "demo", "--image=localhost/probe:1")
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_exec_returns_output_and_exit_status(cluster: Cluster) -> None:
    assert cluster.in_pod("friend", "get", "http://127.0.0.1:8080/").stdout == "hello from friend"
    assert cluster.in_pod("friend", "get", "http://127.0.0.1:1/").returncode == 1


def test_dns_resolves_services_and_pods_of_headless_services(cluster: Cluster) -> None:
    address = cluster.kubectl(
        "get", "service", "-n", "demo", "server", "-o", "jsonpath={.spec.clusterIP}"
    )
    assert cluster.in_pod("friend", "lookup", "server.demo.svc.cluster.local").stdout.split() == [
        address
    ]
    assert set(
        cluster.in_pod("friend", "lookup", "server-headless").stdout.split()
    ) == cluster.addresses(ready=True)
    assert cluster.in_pod("friend", "lookup", "server.example.com").returncode == 1
    for url in ("http://server/", "http://server-headless:8080/"):
        assert cluster.in_pod("friend", "get", url).stdout.startswith("hello from server-")


def test_unready_pod_leaves_the_service_and_returns(cluster: Cluster) -> None:
    pod = cluster.kubectl(
        "get", "pods", "-n", "demo", "-l", "app=server", "-o", "jsonpath={.items[0].metadata.name}"
    )
    address = cluster.kubectl("get", "pod", "-n", "demo", pod, "-o", "jsonpath={.status.podIP}")
    assert address in cluster.addresses(ready=True)
    assert cluster.in_pod(pod, "get", "http://127.0.0.1:8080/off").returncode == 0
    eventually(lambda: address in cluster.addresses(ready=False))
    assert cluster.in_pod(pod, "get", "http://127.0.0.1:8080/on").returncode == 0
    eventually(lambda: address in cluster.addresses(ready=True))


def test_policies_restrict_pods_until_deleted(cluster: Cluster) -> None:
    for pod in ("friend", "stranger"):
        assert cluster.in_pod(pod, "get", "http://server/").returncode == 0
    cluster.kubectl("apply", "-f", str(HERE / "policy.yaml"))
    eventually(lambda: cluster.in_pod("stranger", "get", "http://server/").returncode == 1)
    for url in ("http://server/", "http://server-headless:8080/"):
        assert cluster.in_pod("friend", "get", url).stdout.startswith("hello from server-")
        assert "Timeout" in cluster.in_pod("stranger", "get", url).stderr
    # The friend may reach the servers only; other pods may not reach the node.
    stranger = cluster.kubectl(
        "get", "pod", "-n", "demo", "stranger", "-o", "jsonpath={.status.podIP}"
    )
    assert "Timeout" in cluster.in_pod("friend", "get", f"http://{stranger}:8080/").stderr
    assert "Timeout" in cluster.in_pod("friend", "get", "https://10.96.0.1/").stderr
    # Probes of the node pass: all servers stay ready.
    assert len(cluster.addresses(ready=True)) == 2
    cluster.kubectl("delete", "-f", str(HERE / "policy.yaml"))
    eventually(lambda: cluster.in_pod("stranger", "get", "http://server/").returncode == 0)


def test_helm_installs_and_uninstalls_a_chart(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text(
        "{apiVersion: v2, name: one, version: 1.0.0, kubeVersion: '>=1.34.0'}"
    )
    (tmp_path / "templates" / "map.yaml").write_text(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: of-helm}}"
    )
    installed = cluster.call(
        "exec", "--", "helm", "install", "one", str(tmp_path), "--wait", "--timeout", "60s"
    )
    assert installed.returncode == 0, installed.stderr
    assert cluster.kubectl("get", "configmap", "of-helm", "-o", "name") == "configmap/of-helm"
    assert cluster.call("exec", "--", "helm", "uninstall", "one", "--wait").returncode == 0
    assert cluster.try_kubectl("get", "configmap", "of-helm").returncode == 1


def test_nftables_accepts_every_kind_of_rule(cluster: Cluster) -> None:
    """Covers the rules that no other policy has: blocks, exceptions, ranges, protocols."""
    block = IpBlock("10.0.0.0/8", ("10.88.0.0/16", "10.89.0.0/24"))
    ports = (
        Port("TCP", 80),
        Port("UDP", 5000, 5010),
        Port("SCTP", 7),
        Port("SCTP", None),
        Port("TCP", "http"),
    )
    rules = (Rule(None, None), Rule((block, PodPeer(Selector(()), None)), ports))
    pods = [
        Pod("demo", f"10.88.0.{number}", {}, (NamedPort("http", "TCP", 8080),)) for number in (2, 3)
    ]
    table = render(ClusterState(pods, {"demo": {}}, [Policy("demo", Selector(()), rules, rules)]))
    assert table.count(" return") > 2 * 2 * 2 * len(ports)
    command = cluster.command("exec", "--", "nft", "--check", "--file", "-")
    checked = subprocess.run(command, input=table, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_components_share_processors_with_pods(
    cluster: Cluster,
) -> None:
    name = cluster.layout.control_group
    shared = [
        group
        for root in control_groups.hierarchies(control_groups.MOUNTS.read_text())
        for file in control_groups.WEIGHTS
        if (group := root / name / file).exists()
    ]
    for group in shared:
        assert group.read_text().strip() == str(control_groups.WEIGHTS[group.name])
        pods, parts = (
            group.parent / part / group.name for part in ("kubepods", control_groups.PARTS)
        )
        # On two processors, in the scale of version 2; in that of version 1 the value is twice as
        # large.
        assert int(pods.read_text()) >= 0.7 * int(parts.read_text())
        inside = (group.parent / control_groups.PARTS / "cgroup.procs").read_text().split()
        names = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in inside}
        assert {"etcd", "containerd", "kubernetes"} <= names
    assert shared


def test_failed_component_is_restarted(cluster: Cluster) -> None:
    found = cluster.call("exec", "--", "pgrep", "-f", "kubernetes kube-scheduler").stdout.split()
    assert len(found) == 1
    assert cluster.call("exec", "--", "kill", "-9", found[0]).returncode == 0
    eventually(
        lambda: (
            cluster.call("exec", "--", "pgrep", "-f", "kubernetes kube-scheduler").stdout.split()
            not in ([], found)
        )
    )
    cluster.kubectl("rollout", "restart", "-n", "demo", "deployment/server")
    cluster.kubectl("rollout", "status", "-n", "demo", "deployment/server", "--timeout=60s")


def test_second_cluster_in_the_same_folder_is_rejected(cluster: Cluster) -> None:
    refused = cluster.call("up")
    assert refused.returncode == 1
    for word in (str(cluster.layout.state), "make cluster-down"):
        assert word in refused.stderr


def test_running_cluster_does_not_change_the_machine(
    cluster: Cluster, before: dict[str, str], settings_before: dict[str, str]
) -> None:
    assert settings() == settings_before
    now = machine()
    assert now.pop("groups") != before["groups"]  # groups of kubelet, removed at the end
    assert now == {name: shown for name, shown in before.items() if name != "groups"}
    # Inside, the settings have kubelet's values and are read-only.
    assert cluster.call("exec", "--", "cat", "/proc/sys/vm/overcommit_memory").stdout == "1\n"
    assert (
        cluster.call("exec", "--", "sh", "-c", "echo 1 > /proc/sys/vm/swappiness").returncode != 0
    )


def test_down_removes_all_traces(cluster: Cluster, before: dict[str, str]) -> None:
    assert sum(line.startswith("/probe") for line in processes(cluster.layout)) == 4
    assert len(processes(cluster.layout)) > 15
    assert cluster.call("down").returncode == 0
    assert processes(cluster.layout) == []
    assert machine() == before
    assert not cluster.layout.state.exists()
    assert cluster.call("down").returncode == 0  # without a cluster, `down` succeeds
    assert cluster.call("status").returncode == 1


def test_ctrl_c_during_start_stops_all_processes(fresh: Cluster) -> None:
    before = machine()
    # A process started in the background by a shell ignores Ctrl-C, and its children inherit this.
    hear = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        fresh.command("up"), stdout=subprocess.PIPE, text=True, preexec_fn=hear
    ) as up:
        assert up.stdout
        assert "namespaces" in up.stdout.readline()
        up.send_signal(signal.SIGINT)
        assert up.stdout.read().strip().endswith("==> stopped")
    assert up.returncode == 128 + signal.SIGINT
    assert processes(fresh.layout) == []
    assert machine() == before


@pytest.mark.parametrize("whom", ["up", "process 1"])
def test_kill_at_any_step_leaves_only_files_and_empty_groups(fresh: Cluster, whom: str) -> None:
    """Kill either process at alternating steps."""
    before, steps = machine(), 0
    for step in range(0 if whom == "up" else 1, 100, 2):
        if not kill_at_step(fresh, step, whom):
            break
        eventually(lambda: processes(fresh.layout) == [], show=lambda: processes(fresh.layout))
        assert {**machine(), "groups": before["groups"]} == before
        assert fresh.call("down").returncode == 0
        assert machine() == before
        steps += 1
    assert steps >= 6


def kill_at_step(cluster: Cluster, step: int, whom: str) -> bool:
    """Kill a process at a step; return False if the cluster was complete before the step."""
    with subprocess.Popen(
        cluster.command("up"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as up:
        assert up.stdout
        for number, line in enumerate(up.stdout):
            if "the cluster is running" in line:
                return False
            if number == step:
                running = lifecycle.find(cluster.layout)
                assert running
                os.kill(up.pid if whom == "up" else running.pid, signal.SIGKILL)
                return True
    return False
