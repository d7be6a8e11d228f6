"""Configuration files parse and agree with each other and with the layout."""

import json
import tomllib
from pathlib import Path

import pytest

from infra.machine.cluster import configuration
from infra.machine.cluster.components import KUBELET_HEALTH_PORT, Components
from infra.machine.cluster.configuration import write_configuration
from infra.machine.cluster.installation import Tools
from infra.machine.cluster.layout import CONTAINERD_SOCKET, DNS_SERVICE, PODS, Layout
from infra.machine.cluster.node import DNS

TOOLS = Tools(Path("/debian"), Path("/clients"), Path("/helm3"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    write_configuration(layout, Path("/plugins"))
    return layout


def commands(layout: Layout) -> dict[str, tuple[str, ...]]:
    async def ready() -> bool:
        return True

    components = Components(layout, TOOLS)
    return {
        program.name: program.command
        for program in (*components.first(ready), *components.callers(ready))
    }


def test_containerd_configuration_names_plugins_and_pod_network(layout: Layout) -> None:
    found = tomllib.loads((layout.configuration / configuration.CONTAINERD).read_text())
    plugin = found["plugins"]["io.containerd.grpc.v1.cri"]
    assert plugin["cni"]["bin_dir"] == "/plugins"
    (network,) = Path(plugin["cni"]["conf_dir"]).iterdir()
    assert json.loads(network.read_text())["plugins"][0]["ipam"]["ranges"] == [[{"subnet": PODS}]]
    assert plugin["sandbox_image"] == "localhost/pause:1"
    assert plugin["restrict_oom_score_adj"] is True
    assert found["grpc"]["address"] == CONTAINERD_SOCKET


def test_kubelet_configuration_names_containerd_and_dns(layout: Layout) -> None:
    found = json.loads((layout.configuration / configuration.KUBELET).read_text())
    assert found["containerRuntimeEndpoint"] == f"unix://{CONTAINERD_SOCKET}"
    assert found["cgroupRoot"] == f"/{layout.control_group}"
    assert found["clusterDNS"] == [DNS_SERVICE]
    assert f"clusterIP: {DNS_SERVICE}" in DNS.read_text()
    assert Path(found["resolvConf"]).read_text() == ""
    assert "healthzPort" not in found  # the default port, used by the readiness check
    assert KUBELET_HEALTH_PORT == 10248


def test_kube_proxy_does_not_change_connection_tracking(layout: Layout) -> None:
    found = json.loads((layout.configuration / configuration.PROXY).read_text())
    assert found["mode"] == "nftables"
    assert set(found["conntrack"].values()) == {0, "0s"}


def test_components_use_files_of_their_cluster(layout: Layout) -> None:
    found = commands(layout)
    assert set(found) == {
        *(
            "etcd",
            "containerd",
            "apiserver",
            "controllers",
            "scheduler",
            "kubelet",
            "proxy",
            "policies",
        ),
    }
    for name, words in found.items():
        assert str(layout.state) in " ".join(words), name


def test_clusters_have_distinct_control_groups() -> None:
    assert Layout(Path("/a")).control_group != Layout(Path("/b")).control_group
