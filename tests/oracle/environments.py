"""TRL's environments: one a version, made in the cache outside of any clone from a hash-pinned
lock, once.

torch and transformers are those of the development environment, so that all but TRL's own few
packages are hard links.
"""

import hashlib
import sys
from pathlib import Path

from infra.install.environment import ROOT, atomic_folder, cache, find_uv, run


def python_of(lock_name: str) -> Path:
    """The Python of the environment that locks/`lock_name`.txt describes."""
    lock = ROOT / "locks" / f"{lock_name}.txt"
    home = cache() / "oracle" / f"{lock_name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not home.exists():
        print(f"==> installing {lock_name}: what `dev` has is linked from its cache", flush=True)
        with atomic_folder(home) as partial:
            run(
                [
                    find_uv(),
                    "venv",
                    "--quiet",
                    "--allow-existing",
                    "--python",
                    sys.executable,
                    str(partial),
                ]
            )
            python = str(partial / "bin" / "python")
            run(
                [
                    find_uv(),
                    "pip",
                    "install",
                    "--quiet",
                    "--python",
                    python,
                    "--require-hashes",
                    "-r",
                    str(lock),
                ]
            )
    return home / "bin" / "python"
