"""All definitions of resources in one folder of the cache, by maker: `python -m infra.definitions`."""

import shutil
from collections.abc import Callable
from pathlib import Path

from infra.definitions.modules import fetch_definitions, read_modules
from infra.servers import installation as servers
from infra.servers.installation import LOCKS, Part, fill_missing, home, refuse_missing
from infra.servers.jars import fetch_jars
from infra.servers.steps import run_steps

MODULES = LOCKS / "definitions" / "modules.toml"
STRIMZI = (
    LOCKS / "definitions" / "strimzi" / "pom.xml",
    LOCKS / "definitions" / "strimzi" / "jars.sha256",
)
COMMAND = "python -m infra.definitions"
GENERATOR = "io.strimzi.crdgenerator.CrdGenerator"
RESOURCES = ("kafka.Kafka", "nodepool.KafkaNodePool", "topic.KafkaTopic", "user.KafkaUser")


def find_installed() -> Path:
    """The folder, with one for each maker. Raises: ServerError: it is not there, with the command
    that makes it.
    """
    refuse_missing([part()], COMMAND)
    return part().home


def install(say: Callable[[str], None]) -> Path:
    """Fetch what is missing. Raises: ServerError: something cannot be had here, with what to do."""
    fill_missing([part()], say)
    return part().home


def part() -> Part:
    """The one folder that holds all definitions."""
    what = "definitions of KServe's, KEDA's, Strimzi's and others' resources (120 MB to download, 4 stay)"
    return Part(home("definitions", "resources", MODULES, *STRIMZI), what, _fill)


def _fill(folder: Path) -> None:
    fetched = folder / "fetched"
    for module in read_modules(MODULES):
        fetch_definitions(module, fetched / "modules", folder / module.name)
    _generate(fetched / "jars", folder / "strimzi")
    shutil.rmtree(fetched)


def _generate(jars: Path, folder: Path) -> None:
    """Strimzi publishes its resources as classes, and a program that writes their definitions; it
    wants Java 21.
    """
    jars.mkdir()
    folder.mkdir()
    fetch_jars(*STRIMZI, jars, "Strimzi's jars")
    targets = [
        f"io.strimzi.api.kafka.model.{name}={folder / name.partition('.')[2]}.yaml"
        for name in RESOURCES
    ]
    java = servers.locate().jvm
    run_steps(
        "writing Strimzi's definitions",
        [[str(java), "-cp", f"{jars}/*", GENERATOR, "--yaml", *targets]],
    )
