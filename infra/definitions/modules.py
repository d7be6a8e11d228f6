"""Definitions that lie in the sources of a Go module, whose hash is compared with the lock."""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.servers.errors import ServerError
from infra.servers.go import find_go

DOWNLOAD_SECONDS = 900


@dataclass(frozen=True)
class Module:
    """`files`: paths in it. `sum`: as go.sum writes it."""

    name: str
    module: str
    version: str
    sum: str
    files: Sequence[str]


def read_modules(lock: Path) -> list[Module]:
    """In the order of the lock."""
    return [Module(name, **fields) for name, fields in tomllib.loads(lock.read_text()).items()]


def fetch_definitions(module: Module, modules: Path, folder: Path) -> None:
    """Copy its files into the folder; `modules` is where Go may keep what it downloads.

    Raises:
        ServerError: no Go can be had, no download, or another content than the lock says.
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
            f"{module.module} {module.version} cannot be had: {found.get('Error') or done.stderr.strip()}",
            field=module.module,
            reason="UNREACHABLE",
        )
    if found["Sum"] != module.sum:
        raise ServerError(
            f"{module.module} {module.version} is {found['Sum']}, not what the lock says: {module.sum}",
            field=module.module,
            reason="MISMATCH",
            limit=module.sum,
        )
    folder.mkdir(parents=True)
    for file in module.files:
        shutil.copy(Path(found["Dir"], file), folder)
