"""Where things are: the files of one cluster in its state folder, and the addresses inside its own
network.
"""

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
    """One cluster. Its files are gone when it is."""

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
        """etcd's, containerd's, kubelet's."""
        return self.state / "data"

    @property
    def private(self) -> Path:
        """What stands in for folders of the machine inside the cluster's mount namespace."""
        return self.state / "private"

    @property
    def volume_plugins(self) -> Path:
        return self.data / "volume-plugins"

    @property
    def mark(self) -> Path:
        """Says that everything in the folder is the cluster's, and may be removed."""
        return self.state / "cluster"

    @property
    def control_group(self) -> str:
        """Its name in every hierarchy: clusters of two state folders never meet."""
        return f"thumbwheel-{hashlib.sha256(str(self.state).encode()).hexdigest()[:8]}"

    def kubeconfig(self, name: str = ADMIN) -> Path:
        return self.certificates / f"{name}.kubeconfig"
