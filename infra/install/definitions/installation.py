"""Installation of all resource definitions into a folder of the cache, by vendor."""

import json
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.machine.servers import installation as servers
from infra.machine.servers.errors import ServerError
from infra.machine.servers.go import find_go
from infra.machine.servers.installation import LOCKS, Part, home, install_missing, require_installed
from infra.machine.servers.jars import fetch_jars
from infra.machine.servers.steps import run_steps

MODULES = LOCKS / "definitions" / "modules.toml"
STRIMZI = (
    LOCKS / "definitions" / "strimzi" / "pom.xml",
    LOCKS / "definitions" / "strimzi" / "jars.sha256",
)
COMMAND = "python -m infra.install.definitions"
GENERATOR = "io.strimzi.crdgenerator.CrdGenerator"
RESOURCES = ("kafka.Kafka", "nodepool.KafkaNodePool", "topic.KafkaTopic", "user.KafkaUser")


def find_installed() -> Path:
    """Return the folder with a subfolder per vendor.

    Raises:
        ServerError: the folder is missing; names the command for the installation.
    """
    require_installed([part()], COMMAND)
    return part().home


def install(say: Callable[[str], None]) -> Path:
    """Download missing definitions.

    Raises:
        ServerError: a download is impossible; the message contains the remedy.
    """
    install_missing([part()], say)
    return part().home


def part() -> Part:
    """Describe the folder with all definitions as a part of the installation."""
    what = (
        "resource definitions of KServe, KEDA, Strimzi and others "
        "(120 MB to download, 4 MB on disk)"
    )
    return Part(home("definitions", "resources", MODULES, *STRIMZI), what, _fill)


def _fill(folder: Path) -> None:
    fetched, strimzi = folder / "fetched", folder / "strimzi"
    for module in read_modules(MODULES):
        fetch_definitions(module, fetched / "modules", folder / module.name)
    # Strimzi publishes Java classes and a generator of definitions; both need Java 21.
    jars = fetched / "jars"
    jars.mkdir()
    strimzi.mkdir()
    fetch_jars(*STRIMZI, jars, "Strimzi's jars")
    targets = [
        f"io.strimzi.api.kafka.model.{name}={strimzi / name.partition('.')[2]}.yaml"
        for name in RESOURCES
    ]
    java = servers.locate().jvm
    run_steps(
        "generating Strimzi's definitions",
        [[str(java), "-cp", f"{jars}/*", GENERATOR, "--yaml", *targets]],
    )
    shutil.rmtree(fetched)


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
