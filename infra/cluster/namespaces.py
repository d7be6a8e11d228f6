"""What is made of the cluster's new namespaces: a network that leads nowhere, folders of its own,
settings that it cannot change.

kubelet writes six settings of the kernel that belong to the whole machine. It finds files in their
place that say what it wants, so nothing has to be put back, however the cluster ends.
"""

import subprocess
from pathlib import Path

from infra.cluster.layout import NODE_ADDRESS, Layout

SETTINGS = Path("/proc/sys")
# What kubelet 1.34 wants (pkg/kubelet/cm/container_manager_linux.go), and would set.
WANTED_BY_KUBELET = {
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
    Path("/var/lib"): ("kubelet", "cni"),  # two names that no option changes
}
SHARED_FOLDERS = (Path("/var/lib"),)
# These belong to the network namespace of who opens them: a mount would pin the node's.
OWN_SETTINGS = "net"
NETWORK_SETTINGS = {"ipv4/ip_forward": "1", "bridge/bridge-nf-call-iptables": "1"}
NODE_LINK = "node0"
NOBODY = NODE_ADDRESS.rpartition(".")[0] + ".254"


def furnish(layout: Layout) -> None:
    """Everything, in the namespaces of this process."""
    furnish_folders(layout.private)
    shield_settings(layout.private)
    _run(
        "mount", "--make-rshared", "/"
    )  # so that pods' mounts reach kubelet; unshare has cut off the machine before
    furnish_network()


def furnish_folders(private: Path) -> None:
    """Where the parts write without asking. In /var/lib what is there stays visible: the cache or
    the state may be in it.
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


def shield_settings(private: Path) -> None:
    """The machine's settings become readable only, six of them files of our own."""
    for folder in sorted(SETTINGS.iterdir()):
        if folder.name != OWN_SETTINGS and folder.is_dir():
            _run("mount", "--bind", str(folder), str(folder))
            _run("mount", "-o", "remount,bind,ro", str(folder))
    for name, value in WANTED_BY_KUBELET.items():
        stand_in = private / "settings" / name
        stand_in.parent.mkdir(parents=True, exist_ok=True)
        stand_in.write_text(f"{value}\n")
        _run("mount", "--bind", str(stand_in), str(SETTINGS / name))


def furnish_network() -> None:
    """A bridge without ports holds the node's address: not every kernel has dummy devices. The
    default route makes addresses of Services routable from the node, and ends at a neighbour who
    does not exist.
    """
    for words in (
        ("link", "set", "lo", "up"),
        ("link", "add", NODE_LINK, "type", "bridge"),
        ("addr", "add", f"{NODE_ADDRESS}/24", "dev", NODE_LINK),
        ("link", "set", NODE_LINK, "up"),
        ("route", "add", "default", "via", NOBODY, "dev", NODE_LINK),
    ):
        _run("ip", *words)
    for name, value in NETWORK_SETTINGS.items():
        (SETTINGS / OWN_SETTINGS / name).write_text(value)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
