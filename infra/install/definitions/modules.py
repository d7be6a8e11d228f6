"""Resource definitions from the sources of Go modules, with the hash checked by the lock."""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.machine.servers.errors import ServerError
from infra.machine.servers.go import find_go

DOWNLOAD_SECONDS = 900


@dataclass(frozen=True)
class Module:
    """A Go module in the lock. `files` are paths in the module, `sum` is the hash of go.sum."""

    name: str
    module: str
    version: str
    sum: str
    files: Sequence[str]


def read_modules(lock: Path) -> list[Module]:
    """Read the modules in the order of the lock."""
    return [Module(name, **fields) for name, fields in tomllib.loads(lock.read_text()).items()]


def fetch_definitions(module: Module, modules: Path, folder: Path) -> None:
    """Copy the files of a module into the folder.

    Args:
        modules: folder of Go's module cache.

    Raises:
        ServerError: Go or the download is unavailable, or the hash differs from the lock.
    """
    go = find_go()
    modules.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [str(go), "mod", "download", "-json", f"{module.module}@{module.version}"],
        env={**os.environ, "GOMODCACHE": str(modules), "GOFLAGS": "-modcacherw"},
        cwd=modules,
        capture_output=True,
        text=True,
        check=False,
        timeout=DOWNLOAD_SECONDS,
    )
    found = json.loads(done.stdout or "{}")
    if done.returncode or "Dir" not in found:
        raise ServerError(
            f"{module.module} {module.version} is unavailable: "
            f"{found.get('Error') or done.stderr.strip()}",
            field=module.module,
            reason="UNREACHABLE",
        )
    if found["Sum"] != module.sum:
        raise ServerError(
            f"{module.module} {module.version} has hash {found['Sum']}, expected {module.sum}",
            field=module.module,
            reason="MISMATCH",
            limit=module.sum,
        )
    folder.mkdir(parents=True)
    for file in module.files:
        shutil.copy(Path(found["Dir"], file), folder)
