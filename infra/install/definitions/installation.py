"""Installation of all resource definitions into a folder of the cache, by vendor."""

import shutil
from collections.abc import Callable
from pathlib import Path

from infra.install.definitions.modules import fetch_definitions, read_modules
from infra.machine.servers import installation as servers
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
