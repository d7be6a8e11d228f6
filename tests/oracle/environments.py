"""Environments of oracles (TRL, datatrove, arena-rank), made once in the cache from locked hashes.

Packages that the development environment has are hard links to the same files.
"""

import hashlib
from pathlib import Path

from infra.install.environment import ROOT, atomic_folder, cache, fill_environment


def python_of(lock_name: str) -> Path:
    """Return the Python of the environment of locks/`lock_name`.txt."""
    lock = ROOT / "locks" / f"{lock_name}.txt"
    home = cache() / "oracle" / f"{lock_name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not home.exists():
        print(f"==> installing {lock_name}: what `dev` has is linked from its cache", flush=True)
        with atomic_folder(home) as partial:
            fill_environment(partial, lock)
    return home / "bin" / "python"
