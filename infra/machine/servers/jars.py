"""Download of jars by Maven, checked against a committed list.

No other jar is ever run.
"""

import hashlib
import shutil
from pathlib import Path

from infra.machine.servers.errors import ServerError
from infra.machine.servers.steps import run_steps

PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
DOWNLOAD_SECONDS = 1800.0
REPOSITORY = "repository"
KAFKA = "Kafka's jars"


def fetch_jars(pom: Path, list_file: Path, folder: Path, what: str = KAFKA) -> None:
    """Fill the folder with exactly the jars of the list.

    Args:
        what: description of the jars in messages.

    Raises:
        ServerError: Maven or the download is unavailable, or a jar differs.
    """
    maven = shutil.which("mvn")
    if not maven:
        raise ServerError(
            f"{what} need Maven, which is not on PATH; install it (Debian: apt-get install maven; "
            "elsewhere: Maven's archive needs no root), then run this command again",
            field="mvn",
            reason="MISSING",
        )
    repository = folder / REPOSITORY
    command = [maven, "-q", "-B", "-f", str(pom), f"-Dmaven.repo.local={repository}", PLUGIN]
    run_steps(
        f"fetching {what}", [[*command, f"-DoutputDirectory={folder}"]], folder, DOWNLOAD_SECONDS
    )
    shutil.rmtree(repository)
    check_jars(list_file, folder, what)


def check_jars(list_file: Path, folder: Path, what: str = KAFKA) -> None:
    """Compare the folder with the list.

    Raises:
        ServerError: names the jars that differ.
    """
    lines = (line.split() for line in list_file.read_text().splitlines())
    listed = {name: sha256 for sha256, name in lines}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.glob("*.jar")}
    if wrong := sorted(
        name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name)
    ):
        raise ServerError(
            f"{what} differ from {list_file.name}: {', '.join(wrong)}",
            field=", ".join(wrong),
            reason="MISMATCH",
            limit=list_file.name,
        )
