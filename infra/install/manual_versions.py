"""Three versions of LLVM's manual from Debian packages: pages with real near duplicates.

`python -m infra.install.manual_versions` installs them into the cache and prints the folder. The
texts are data for benchmarks: none of them becomes part of the product.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from infra.machine.servers.debian import unpack_packages
from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import LOCKS, Part, home, install_missing

LOCK = LOCKS / "manual_versions.sha256"
VERSIONS = (13, 14, 15)  # Apache-2.0 WITH LLVM-exception
PACKAGED = "usr/share/doc/llvm-{version}-doc/html"


def install() -> Path:
    """Install the manuals if missing, and return their folder: a subfolder for each of `VERSIONS`.

    Raises:
        ServerError: a package is unavailable here; the message contains the remedy.
    """
    what = "three versions of LLVM's manual (18 MB to download, 60 MB on disk)"
    part = Part(home("data", LOCK.stem, LOCK), what, fill)
    install_missing([part], lambda text: print(text, file=sys.stderr))
    return part.home


def fill(folder: Path) -> None:
    """Unpack the packages and keep their HTML."""
    unpacked = folder / "packages"
    unpacked.mkdir()
    unpack_packages(LOCK, unpacked, "The manuals need these packages of Debian 12.")
    for version in VERSIONS:
        (unpacked / PACKAGED.format(version=version)).rename(folder / str(version))
    shutil.rmtree(unpacked)


def main() -> None:
    try:
        print(install())
    except ServerError as error:
        sys.exit(f"==> {error}")


if __name__ == "__main__":
    main()
