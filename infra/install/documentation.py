"""Manuals of Debian packages in HTML: a corpus for tests, benchmarks and the tour of the product.

`python -m infra.install.documentation` installs them into the cache and prints the folder. The
texts are data: none of them becomes part of the product.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.machine.servers.debian import unpack_packages
from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import (
    LOCKS,
    Part,
    home,
    install_missing,
    require_installed,
)
from infra.run.supervision.interruption import as_command
from infra.run.supervision.terminal import SUPERVISOR, Terminal

LOCK = LOCKS / "documentation.sha256"
COMMAND = "python -m infra.install.documentation"
ADVICE = "The manuals need these packages of Debian 12."


@dataclass(frozen=True)
class Manual:
    """A manual, a folder of HTML files.

    Attributes:
        name: name of the folder.
        packaged: path of the folder in its package.
        start: first page, relative to the folder.
        licence: SPDX identifier, from the copyright file of the package.
    """

    name: str
    packaged: str
    start: str
    licence: str


# Pages of each: 530, 1,167, 766, 241, 3,302 in 26 languages, 12.
MANUALS = (
    Manual("python", "usr/share/doc/python3.11/html", "index.html", "PSF-2.0"),
    Manual("postgresql", "usr/share/doc/postgresql-doc-15/html", "index.html", "PostgreSQL"),
    Manual("sqlite", "usr/share/doc/sqlite3", "index.html", "blessing"),
    Manual("git", "usr/share/doc/git-doc", "git.html", "GPL-2.0-only"),
    Manual(
        "handbook", "usr/share/doc/debian-handbook/html", "en-US/index.html", "GPL-2.0-or-later"
    ),
    Manual("reference", "usr/share/developers-reference", "index.html", "GPL-2.0-or-later"),
)


def find_installed() -> Path:
    """Return the folder with a subfolder for each of `MANUALS`.

    Raises:
        ServerError: the manuals are missing; names the command for the installation.
    """
    require_installed([part()], COMMAND)
    return part().home


def install(say: Callable[[str], None]) -> Path:
    """Install the manuals if missing, and return their folder.

    Raises:
        ServerError: a package is unavailable here; the message contains the remedy.
    """
    install_missing([part()], say)
    return part().home


def part() -> Part:
    """Return the part for the installation."""
    what = "manuals of Debian packages (60 MB to download, 220 MB on disk)"
    return Part(home("data", LOCK.stem, LOCK), what, fill)


def fill(folder: Path) -> None:
    """Unpack the packages and keep the folders of `MANUALS`, without symbolic links."""
    unpacked = folder / "packages"
    unpacked.mkdir()
    unpack_packages(LOCK, unpacked, ADVICE)
    for manual in MANUALS:
        # Hard links keep a figure shared by all translations of the handbook on disk once.
        shutil.copytree(
            unpacked / manual.packaged,
            folder / manual.name,
            copy_function=os.link,
            ignore_dangling_symlinks=True,
        )
    shutil.rmtree(unpacked)


def main() -> None:
    with as_command(ServerError):
        print(install(partial(Terminal().say, SUPERVISOR)))


if __name__ == "__main__":
    main()
