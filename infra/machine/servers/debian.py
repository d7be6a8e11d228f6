"""Debian packages unpacked without root.

apt downloads the packages and their sha256 is checked. No package is installed, and no package
script runs. If the package lists of the machine are missing or old, new ones are fetched into a
separate folder.
"""

import hashlib
import shutil
from pathlib import Path
from urllib.parse import unquote

from infra.machine.servers.errors import ServerError
from infra.machine.servers.steps import run_steps

DOWNLOAD_SECONDS = 600.0


def unpack_packages(lock: Path, folder: Path, advice: str) -> None:
    """Unpack the packages of a lock with lines of sha256 and file name.

    Args:
        advice: advice for machines without these packages.

    Raises:
        ServerError: a package is unavailable or differs from the lock; contains the advice.
    """
    locked = {
        name: sha256 for sha256, name in (line.split() for line in lock.read_text().splitlines())
    }
    names = [file.split("_")[0] for file in locked]
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise ServerError(
                f"{', '.join(names)}: Debian 12 packages need {tool}. {advice}",
                field=tool,
                reason="MISSING",
            )
    download = folder / "download"
    download.mkdir()
    # apt's names of the packages. In a file name the colon of an epoch is %3a.
    parts = [file.split("_") for file in locked]
    _download([f"{name}={unquote(version)}" for name, version, _ in parts], download, advice)
    packages = sorted(download.glob("*.deb"))
    for package in packages:
        wanted = locked.get(package.name)
        if (found := hashlib.sha256(package.read_bytes()).hexdigest()) != wanted:
            raise ServerError(
                f"{package.name}: sha256 is {found}, expected {wanted}; nothing was installed",
                field=package.name,
                reason="MISMATCH",
                limit=str(wanted),
            )
    for package in packages:
        run_steps(f"unpacking {package.name}", [["dpkg-deb", "-x", str(package), str(folder)]])
    shutil.rmtree(download)


def _download(wanted: list[str], folder: Path, advice: str) -> None:
    """Download with the machine's package lists, else with new lists."""
    options = ["-o", "APT::Sandbox::User="]  # the folder may be inaccessible to apt's own user
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
                f"{error}\n{', '.join(wanted)}: not in this machine's package sources. {advice}",
                field=error.field,
                reason=error.reason,
                limit=error.limit,
            ) from error


def _run_apt(folder: Path, *words: str) -> None:
    run_steps(f"apt-get {words[-1]}", [["apt-get", *words]], folder, DOWNLOAD_SECONDS)
