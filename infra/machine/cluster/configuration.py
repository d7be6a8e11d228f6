"""Configuration of containerd, the pod network, kubelet and kube-proxy.

Comments explain differences from the defaults.
"""

import json
from pathlib import Path

from infra.machine.cluster import certificates
from infra.machine.cluster.installation import PAUSE, reference_of
from infra.machine.cluster.layout import (
    CONTAINERD_SOCKET,
    DNS_SERVICE,
    DOMAIN,
    NODE,
    NODE_ADDRESS,
    PODS,
    Layout,
)

CONTAINERD, KUBELET, PROXY, NETWORK, RESOLVER = (
    "containerd.toml",
    "kubelet.json",
    "proxy.json",
    "network",
    "resolv.conf",
)
CONTAINERD_PORT, PROXY_HEALTH_PORT = 10_010, 10_256


def write_configuration(layout: Layout, network_plugins: Path) -> None:
    """Write all files into the state folder."""
    folder = layout.configuration
    (folder / NETWORK).mkdir(parents=True)
    (folder / CONTAINERD).write_text(containerd(layout, network_plugins))
    (folder / NETWORK / "10-bridge.conflist").write_text(json.dumps(pod_network(), indent=2))
    (folder / KUBELET).write_text(json.dumps(kubelet(layout), indent=2))
    (folder / PROXY).write_text(json.dumps(proxy(layout), indent=2))
    (folder / RESOLVER).write_text("")  # the resolver of the machine is not reachable from pods


def containerd(layout: Layout, network_plugins: Path) -> str:
    """Return the configuration of containerd.

    restrict_oom_score_adj: root in a container may lack CAP_SYS_RESOURCE, and runc then fails
    without a reason.
    """
    disabled = [f"snapshotter.v1.{name}" for name in ("aufs", "btrfs", "devmapper", "zfs")]
    disabled += ["tracing.processor.v1.otlp", "internal.v1.tracing"]
    return f"""\
version = 2
root = "{layout.data}/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = {json.dumps([f"io.containerd.{name}" for name in disabled])}

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.internal.v1.opt"]
path = "{layout.data}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{reference_of(PAUSE)}"
disable_apparmor = true
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
stream_server_port = "{CONTAINERD_PORT}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{network_plugins}"
conf_dir = "{layout.configuration}/{NETWORK}"
"""


def pod_network() -> dict[str, object]:
    """Return the pod network, a bridge.

    There is no portmap plugin: host ports would need iptables in addition to nftables.
    """
    addresses = {
        "type": "host-local",
        "dataDir": "/run/pod-addresses",
        "ranges": [[{"subnet": PODS}]],
    }
    bridge = {
        "type": "bridge",
        "bridge": "pods",
        "isGateway": True,
        "isDefaultGateway": True,
        "ipMasq": False,
    }
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [{**bridge, "hairpinMode": True, "ipam": addresses}],
    }


def kubelet(layout: Layout) -> dict[str, object]:
    folder = layout.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(folder / f"{certificates.AUTHORITY}.pem")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(folder / f"{certificates.KUBELET}.pem"),
        "tlsPrivateKeyFile": str(folder / f"{certificates.KUBELET}.key"),
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.control_group}",
        "failSwapOn": False,
        "failCgroupV1": False,
        "seccompDefault": True,
        "clusterDomain": DOMAIN,
        "clusterDNS": [DNS_SERVICE],
        "resolvConf": str(layout.configuration / RESOLVER),
        # Images cannot be pulled again.
        "imageGCHighThresholdPercent": 100,
        "imageMinimumGCAge": "240h",
        # Disk and memory belong to the machine, which other programs fill as well.
        "evictionHard": {
            "memory.available": "64Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "nodeStatusUpdateFrequency": "2s",
        "volumePluginDir": str(layout.volume_plugins),
    }


def proxy(layout: Layout) -> dict[str, object]:
    # These settings are global for the machine and cannot be set in a namespace.
    untouched = {
        "maxPerCore": 0,
        "min": 0,
        "tcpEstablishedTimeout": "0s",
        "tcpCloseWaitTimeout": "0s",
    }
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": PODS,
        "hostnameOverride": NODE,
        "bindAddress": "127.0.0.1",
        "healthzBindAddress": f"127.0.0.1:{PROXY_HEALTH_PORT}",
        "clientConnection": {"kubeconfig": str(layout.kubeconfig("proxy"))},
        "conntrack": untouched,
        "nodePortAddresses": [f"{NODE_ADDRESS}/32"],
    }
