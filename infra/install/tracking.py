"""The packages of `--track` in an environment of their own, for tests.

`dev` does not have them (infra/install/lock.sh). A test adds the folder to PYTHONPATH of a process.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from infra.install.environment import ROOT, atomic_folder, cache, fill_environment
from infra.install.tools import ToolError

LOCK = ROOT / "locks" / "tracking.txt"


def home() -> Path:
    """Return the folder of the environment in the cache, one for each lock and Python version."""
    digest = hashlib.sha256(LOCK.read_bytes()).hexdigest()[:16]
    return cache() / "tracking" / f"{digest}-{sys.version_info.major}.{sys.version_info.minor}"


def site_packages() -> Path:
    """Return the folder that Python imports the packages from."""
    return next((home() / "lib").glob("python3*/site-packages"))


def install() -> None:
    """Create the environment, unless it exists.

    Raises:
        ToolError: the packages cannot be installed.
    """
    if home().exists():
        return
    try:
        with atomic_folder(home()) as partial:
            fill_environment(partial, LOCK, "--no-deps")
    except SystemExit as error:
        raise ToolError(str(error)) from error
