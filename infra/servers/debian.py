"""Packages of Debian, unpacked without root: apt downloads them, their sha256 is checked, and
nothing of them is run or installed.

Where the machine's package lists are missing or old, fresh ones are fetched into a folder of our
own.
"""

import hashlib
import shutil
from pathlib import Path
from urllib.parse import unquote

from infra.servers.errors import ServerError
from infra.servers.steps import run_steps

DOWNLOAD_SECONDS = 600.0


def unpack_packages(lock: Path, folder: Path, instead: str) -> None:
    """Unpack the packages that the lock names, a line each: sha256 and file name.

    Args:
        instead: what to do on a machine that cannot have them.

    Raises:
        ServerError: one cannot be had here, or is not what the lock says; with what to do.
    """
    locked = {
        name: sha256 for sha256, name in (line.split() for line in lock.read_text().splitlines())
    }
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise ServerError(
                f"{', '.join(_name_of(file) for file in locked)}: packages of Debian 12, and this machine has no {tool}. {instead}",
                field=tool,
                reason="MISSING",
            )
    download = folder / "download"
    download.mkdir()
    _download([_wanted(file) for file in locked], download, instead)
    packages = sorted(download.glob("*.deb"))
    for package in packages:
        wanted = locked.get(package.name)
        if (found := hashlib.sha256(package.read_bytes()).hexdigest()) != wanted:
            raise ServerError(
                f"{package.name}: sha256 is {found}, {lock.name} says {wanted}; nothing was installed",
                field=package.name,
                reason="MISMATCH",
                limit=str(wanted),
            )
    for package in packages:
        run_steps(f"unpacking {package.name}", [["dpkg-deb", "-x", str(package), str(folder)]])
    shutil.rmtree(download)


def _name_of(file: str) -> str:
    return file.split("_")[0]


def _wanted(file: str) -> str:
    """As apt wants it: a file's name has the colon of an epoch as %3a."""
    name, version, _ = file.split("_")
    return f"{name}={unquote(version)}"


def _download(wanted: list[str], folder: Path, instead: str) -> None:
    """With the machine's package lists, else with fresh ones."""
    options = ["-o", "APT::Sandbox::User="]  # the folder may be closed to apt's own user
    try:
        _run_apt(folder, *options, "download", *wanted)
    except ServerError:
        lists, cached = folder / "state" / "lists", folder / "cache"
        for made in (lists / "partial", cached / "archives" / "partial"):
            made.mkdir(parents=True)
        options += ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cached}"]
        try:
            _run_apt(folder, *options, "update")
            _run_apt(folder, *options, "download", *wanted)
        except ServerError as error:
            raise ServerError(
                f"{error}\n{', '.join(wanted)} cannot be had from this machine's package sources. {instead}",
                field=error.field,
                reason=error.reason,
                limit=error.limit,
            ) from error


def _run_apt(folder: Path, *words: str) -> None:
    run_steps(f"apt-get {words[-1]}", [["apt-get", *words]], folder, DOWNLOAD_SECONDS)
