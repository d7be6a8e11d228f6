"""A package of Debian, unpacked without root: apt downloads it, its sha256 is checked, and nothing of it is run or installed.

Where the machine's package lists are missing or old, fresh ones are fetched into a folder of our own.
"""

import hashlib
import shutil
from pathlib import Path

from infra.servers.errors import ServerError
from infra.servers.watched import run_watched

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
    run_watched(["dpkg-deb", "-x", str(package), str(folder)], folder, folder)
    shutil.rmtree(download)


def _download(wanted: str, folder: Path) -> None:
    """With the machine's package lists, else with fresh ones."""
    as_ourselves = ("-o", "APT::Sandbox::User=")
    try:
        run_watched(["apt-get", *as_ourselves, "download", wanted], folder, folder)
    except ServerError:
        state, cached = folder / "state", folder / "cache"
        for made in (state / "lists" / "partial", cached / "archives" / "partial"):
            made.mkdir(parents=True)
        own = (*as_ourselves, "-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={cached}")
        print("    fetching Debian's package lists", flush=True)
        try:
            run_watched(["apt-get", *own, "update"], folder, folder)
            run_watched(["apt-get", *own, "download", wanted], folder, folder)
        except ServerError as error:
            raise ServerError(
                f"{error}\n{wanted} cannot be had from this machine's package sources. {INSTEAD}"
            ) from error
