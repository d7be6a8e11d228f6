"""A package of Debian, unpacked without root: apt downloads it, its sha256 is checked, and nothing of it is run or installed.

Where the machine's package lists are missing or old, fresh ones are fetched into a folder of our own.
"""

import hashlib
import shutil
from pathlib import Path

from infra.servers.errors import ServerError
from infra.servers.steps import run_steps

DOWNLOAD_SECONDS = 600.0
INSTEAD = "Or get prometheus and promtool (2.42 or newer) yourself and name their folder in THUMBWHEEL_PROMETHEUS."


def unpack_package(lock: Path, folder: Path) -> None:
    """Unpack the package that the lock names.

    Raises:
        ServerError: it cannot be had here, or is not what the lock says; with what to do.
    """
    sha256, file_name = lock.read_text().split()
    name, version, _ = file_name.split("_")
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise ServerError(f"{name} comes as a package of Debian 12, and this machine has no {tool}. {INSTEAD}")
    download = folder / "download"
    download.mkdir()
    _download(f"{name}={version}", download)
    (package,) = download.glob("*.deb")
    if (found := hashlib.sha256(package.read_bytes()).hexdigest()) != sha256:
        raise ServerError(f"{package.name}: sha256 is {found}, {lock.name} says {sha256}; nothing was installed")
    run_steps(f"unpacking {name}", [["dpkg-deb", "-x", str(package), str(folder)]])
    shutil.rmtree(download)


def _download(wanted: str, folder: Path) -> None:
    """With the machine's package lists, else with fresh ones."""
    options = ["-o", "APT::Sandbox::User="]  # the folder may be closed to apt's own user
    try:
        _run_apt(folder, *options, "download", wanted)
    except ServerError:
        lists, cached = folder / "state" / "lists", folder / "cache"
        for made in (lists / "partial", cached / "archives" / "partial"):
            made.mkdir(parents=True)
        options += ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cached}"]
        try:
            _run_apt(folder, *options, "update")
            _run_apt(folder, *options, "download", wanted)
        except ServerError as error:
            raise ServerError(
                f"{error}\n{wanted} cannot be had from this machine's package sources. {INSTEAD}"
            ) from error


def _run_apt(folder: Path, *words: str) -> None:
    run_steps(f"apt-get {words[-1]}", [["apt-get", *words]], folder, DOWNLOAD_SECONDS)
