"""Command lines of the cluster's components in two stages.

The first stage needs files only; the second calls the API. The supervisor restarts failed
components.
"""

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from infra.machine.cluster import certificates
from infra.machine.cluster.configuration import (
    CONTAINERD,
    CONTAINERD_PORT,
    KUBELET,
    PROXY,
    PROXY_HEALTH_PORT,
)
from infra.machine.cluster.installation import Tools
from infra.machine.cluster.layout import NODE, NODE_ADDRESS, PODS, SERVICES, Layout
from infra.run.supervision.child import Program

ETCD_PORT, ETCD_PEERS_PORT, API_PORT = 2379, 2380, 6443
CONTROLLERS_PORT, SCHEDULER_PORT, KUBELET_HEALTH_PORT = 10_257, 10_259, 10_248
# A deployment creates many objects at once; the default of kube-controller-manager is 20.
CALLS_PER_SECOND = 300


@dataclass(frozen=True)
class Components:
    """Command lines of the components.

    Components run as root in separate namespaces and listen on the loopback inside.
    """

    layout: Layout
    tools: Tools

    def first(self, api_is_ready: Callable[[], Awaitable[bool]]) -> tuple[Program, ...]:
        """Return etcd, the API server and containerd."""
        address = f"http://127.0.0.1:{ETCD_PORT}"
        etcd = (
            str(self.tools.etcd),
            f"--data-dir={self.layout.data}/etcd",
            f"--listen-client-urls={address}",
            f"--advertise-client-urls={address}",
            f"--listen-peer-urls=http://127.0.0.1:{ETCD_PEERS_PORT}",
            "--unsafe-no-fsync",  # no data outlive the cluster
            "--log-level=warn",
        )
        containerd = str(self.tools.debian / "usr" / "bin" / "containerd")
        return (
            Program("etcd", etcd, {}, ETCD_PORT),
            Program(
                "containerd",
                (containerd, "-c", self._configuration(CONTAINERD)),
                {},
                CONTAINERD_PORT,
            ),
            Program("apiserver", self._api(), {}, API_PORT, ready=api_is_ready),
        )

    def callers(self, policies_are_enforced: Callable[[], Awaitable[bool]]) -> tuple[Program, ...]:
        """Return the components that call the API."""
        controllers = (
            *self._component("kube-controller-manager"),
            f"--kubeconfig={self.layout.kubeconfig('controller-manager')}",
            f"--root-ca-file={self._certificate(certificates.AUTHORITY)}",
            f"--service-account-private-key-file={self._key(certificates.SERVICE_ACCOUNTS)}",
            "--use-service-account-credentials",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            f"--cluster-cidr={PODS}",
            "--allocate-node-cidrs=false",
            f"--flex-volume-plugin-dir={self.layout.volume_plugins}",
            f"--kube-api-qps={CALLS_PER_SECOND}",
            f"--kube-api-burst={2 * CALLS_PER_SECOND}",
        )
        scheduler = (
            *self._component("kube-scheduler"),
            f"--kubeconfig={self.layout.kubeconfig('scheduler')}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
        )
        kubelet = (
            *self._component("kubelet"),
            f"--config={self._configuration(KUBELET)}",
            f"--kubeconfig={self.layout.kubeconfig(certificates.KUBELET)}",
            f"--hostname-override={NODE}",
            f"--node-ip={NODE_ADDRESS}",
            f"--root-dir={self.layout.data}/kubelet",
        )
        proxy = (*self._component("kube-proxy"), f"--config={self._configuration(PROXY)}")
        policies = (sys.executable, "-m", "infra.machine.cluster", "policies", "--state")
        return (
            Program("controllers", controllers, {}, CONTROLLERS_PORT),
            Program("scheduler", scheduler, {}, SCHEDULER_PORT),
            Program("kubelet", kubelet, {}, KUBELET_HEALTH_PORT),
            Program("proxy", proxy, {}, PROXY_HEALTH_PORT),
            Program(
                "policies",
                (*policies, str(self.layout.state)),
                {},
                None,
                ready=policies_are_enforced,
            ),
        )

    def _api(self) -> tuple[str, ...]:
        return (
            *self._component("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
            f"--advertise-address={NODE_ADDRESS}",
            f"--secure-port={API_PORT}",
            f"--service-cluster-ip-range={SERVICES}",
            "--allow-privileged=true",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            f"--tls-cert-file={self._certificate(certificates.API_SERVER)}",
            f"--tls-private-key-file={self._key(certificates.API_SERVER)}",
            f"--client-ca-file={self._certificate(certificates.AUTHORITY)}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={self._certificate(certificates.SERVICE_ACCOUNTS)}",
            f"--service-account-signing-key-file={self._key(certificates.SERVICE_ACCOUNTS)}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--kubelet-certificate-authority={self._certificate(certificates.AUTHORITY)}",
            f"--kubelet-client-certificate={self._certificate('apiserver-to-kubelet')}",
            f"--kubelet-client-key={self._key('apiserver-to-kubelet')}",
            # For aggregated API servers (for example metrics), which trust users authenticated by
            # the proxy.
            f"--requestheader-client-ca-file={self._certificate(certificates.FRONT_AUTHORITY)}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={self._certificate(certificates.FRONT_PROXY)}",
            f"--proxy-client-key-file={self._key(certificates.FRONT_PROXY)}",
        )

    def _component(self, name: str) -> tuple[str, str]:
        return str(self.tools.kubernetes), name

    def _configuration(self, name: str) -> str:
        return str(self.layout.configuration / name)

    def _certificate(self, name: str) -> Path:
        return self.layout.certificates / f"{name}.pem"

    def _key(self, name: str) -> Path:
        return self.layout.certificates / f"{name}.key"
