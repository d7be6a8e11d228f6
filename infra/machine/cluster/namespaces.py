"""Setup of the cluster's namespaces: isolated network, private folders, protected kernel settings.

kubelet writes six kernel settings of the whole machine. Files with the wanted values are mounted
over these settings, so that no cleanup is needed however the cluster ends.
"""

import subprocess
from pathlib import Path

from infra.machine.cluster.layout import NODE_ADDRESS, Layout

SETTINGS = Path("/proc/sys")
# Values that kubelet 1.34 requires and would set (pkg/kubelet/cm/container_manager_linux.go).
KUBELET_SETTINGS = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
OWN_FOLDERS = {
    Path("/run"): ("containerd", "netns", "lock"),
    Path("/var/log"): ("pods", "containers"),
    Path("/var/lib"): ("kubelet", "cni"),  # fixed paths without an option
}
SHARED_FOLDERS = (Path("/var/lib"),)
# These settings belong to the network namespace of the reader: a mount would pin the node's.
OWN_SETTINGS = "net"
NETWORK_SETTINGS = {"ipv4/ip_forward": "1", "bridge/bridge-nf-call-iptables": "1"}
NODE_LINK = "node0"
NO_NEIGHBOUR = NODE_ADDRESS.rpartition(".")[0] + ".254"


def set_up_namespaces(layout: Layout) -> None:
    """Set up the namespaces of this process."""
    mount_private_folders(layout.private)
    protect_settings(layout.private)
    _run(
        "mount", "--make-rshared", "/"
    )  # Pods' mounts must propagate to kubelet; unshare has already detached the machine's mounts.
    create_network()


def mount_private_folders(private: Path) -> None:
    """Mount private folders over fixed paths of the components.

    Existing entries of /var/lib stay visible, because they may contain the cache or the state.
    """
    for place, inner in OWN_FOLDERS.items():
        own = private / place.relative_to("/")
        for folder in inner:
            (own / folder).mkdir(parents=True)
        if place in SHARED_FOLDERS:
            for entry in sorted(place.iterdir()):
                if entry.is_dir() and not entry.is_symlink() and entry.name not in inner:
                    (own / entry.name).mkdir()
                    _run("mount", "--rbind", str(entry), str(own / entry.name))
        _run("mount", "--rbind", str(own), str(place))


def protect_settings(private: Path) -> None:
    """Mount the machine's settings read-only, and own files over six of them."""
    for folder in sorted(SETTINGS.iterdir()):
        if folder.name != OWN_SETTINGS and folder.is_dir():
            _run("mount", "--bind", str(folder), str(folder))
            _run("mount", "-o", "remount,bind,ro", str(folder))
    for name, value in KUBELET_SETTINGS.items():
        stand_in = private / "settings" / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(f"{value}\n")
        _run("mount", "--bind", str(stand_in), str(SETTINGS / name))


def create_network() -> None:
    """Create a bridge without ports for the node's address.

    Not every kernel has dummy devices. The default route makes Service addresses routable from the
    node and leads to a nonexistent neighbour.
    """
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "add", NODE_LINK, "type", "bridge"),
        ("addr", "add", f"{NODE_ADDRESS}/24", "dev", NODE_LINK),
        ("link", "set", NODE_LINK, "up"),
        ("route", "add", "default", "via", NO_NEIGHBOUR, "dev", NODE_LINK),
    ):
        _run("ip", *words)
    for name, value in NETWORK_SETTINGS.items():
        (SETTINGS / OWN_SETTINGS / name).write_text(value)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
