"""Layout of a cluster: files in the state folder and addresses in its network."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

NODE, NODE_ADDRESS = "node0", "10.89.0.1"
PODS, SERVICES = "10.88.0.0/16", "10.96.0.0/16"
API_SERVICE, DNS_SERVICE = "10.96.0.1", "10.96.0.10"
API = "https://127.0.0.1:6443"
DOMAIN = "cluster.local"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
ADMIN = "admin"


@dataclass(frozen=True)
class Layout:
    """Paths of a cluster. The files are removed with the cluster."""

    state: Path

    @property
    def certificates(self) -> Path:
        return self.state / "certificates"

    @property
    def configuration(self) -> Path:
        return self.state / "configuration"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def data(self) -> Path:
        """Data of etcd, containerd and kubelet."""
        return self.state / "data"

    @property
    def private(self) -> Path:
        """Folders mounted over folders of the machine in the mount namespace of the cluster."""
        return self.state / "private"

    @property
    def volume_plugins(self) -> Path:
        return self.data / "volume-plugins"

    @property
    def marker(self) -> Path:
        """Marker: all files in the folder belong to the cluster and may be removed."""
        return self.state / "cluster"

    @property
    def control_group(self) -> str:
        """Name of the control group in every hierarchy, unique per state folder."""
        return f"thumbwheel-{hashlib.sha256(str(self.state).encode()).hexdigest()[:8]}"

    def kubeconfig(self, name: str = ADMIN) -> Path:
        return self.certificates / f"{name}.kubeconfig"
