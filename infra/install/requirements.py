"""Requirements of `make test` beyond Python packages.

`python -m infra.install.requirements` is the first step of `make test`: the command installs each
requirement and lists the missing ones with the affected tests. tests/conftest.py skips the tests of
a missing requirement, with its name as the reason. With CI=true no requirement may be missing: the
command fails, and no test is skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from infra.install import documentation, tools, tracking
from infra.install.definitions import installation as definitions
from infra.machine.cluster import installation as cluster
from infra.machine.servers import installation as servers
from infra.machine.servers.errors import ServerError
from infra.machine.servers.installation import Part
from infra.run.supervision.interruption import as_command
from infra.run.supervision.terminal import SUPERVISOR, Terminal
from training.benchmarks.data import DATA_LOCK
from training.corpus.quality.url_lists import LOCK as URL_LISTS
from training.data.packages import DataError, home_of, installed
from training.recipes.pretraining.texts import PACKAGES as ARTICLES

Say = Callable[[str], None]


@dataclass(frozen=True)
class Requirement:
    """A program or data set that some tests need.

    Args:
        name: name in messages.
        is_installed: returns True if the requirement is in the cache.
        install: installs the requirement into the cache; raises ServerError or ToolError.
        about: description of the affected tests.
        fixtures: names of fixtures whose tests need the requirement.
        paths: prefixes of paths of test modules that need the requirement.
    """

    name: str
    is_installed: Callable[[], bool]
    install: Callable[[Say], object]
    about: str
    fixtures: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    def is_needed_by(self, path: str, fixtures: set[str]) -> bool:
        """Return True if a test needs the requirement.

        Args:
            path: path of the test module, relative to the root.
            fixtures: names of all fixtures of the test.
        """
        return path.startswith(self.paths or ("\0",)) or not self.fixtures.isdisjoint(fixtures)


# The tour crawls the manuals and the articles.
LIFE = ("tests/journeys/test_life.py",)


def of_parts(
    parts: Callable[[], Sequence[Part]],
) -> tuple[Callable[[], bool], Callable[[Say], None]]:
    """Return `is_installed` and `install` of a requirement that consists of parts.

    A ServerError from `parts` counts as not installed.
    """

    def is_installed() -> bool:
        try:
            return all(part.home.exists() for part in parts())
        except ServerError:
            return False

    return is_installed, lambda say: servers.install_missing(parts(), say)


def server_parts(*names: str) -> Callable[[], list[Part]]:
    """Return the parts of the real servers whose description starts with a given name."""
    return lambda: [part for part in servers.parts(servers.locate()) if part.what.startswith(names)]


SERVERS = frozenset({"postgres", "valkey", "s3", "kafka", "kafka_of_three", "system"})
KAFKA = frozenset({"kafka", "kafka_of_three", "system"})
# Test modules that start their own servers.
OWN_KAFKA = (
    "tests/faults/test_f05",
    "tests/faults/test_f07",
    "tests/infra/machine/evaluation_stores/",
    "tests/infra/machine/servers/test_fleet.py",
    "tests/journeys/test_real_servers.py",
)
OWN_SERVERS = (
    *OWN_KAFKA,
    "tests/charts/test_evaluation.py",
    "tests/faults/test_f21",
    "tests/faults/test_f22",
    "tests/infra/machine/servers/test_valkey.py",
)


def of_data(lock: Path) -> tuple[Callable[[], bool], Callable[[Say], None]]:
    """Return `is_installed` and `install` of the data packages of a lock."""

    def install(_say: Say) -> None:
        try:
            installed(lock)
        except DataError as error:
            raise tools.ToolError(error.text) from error

    return lambda: home_of(lock).exists(), install


# Rules that the chart renders, in Prometheus.
TWO_RELEASES = (
    "tests/infra/watching/test_shared_prometheus.py",
    "tests/infra/watching/test_two_releases.py",
)
REQUIREMENTS = (
    Requirement(
        "Chromium",
        lambda: tools.browser().exists(),
        lambda _say: tools.install_browser(),
        "of the pages, in a browser",
        paths=(
            *("tests/journeys/test_page.py", "tests/journeys/test_tokenizer_page.py"),
            "tests/training/recipes/tokenizer/test_page.py",
        ),
    ),
    Requirement(
        "PostgreSQL, Valkey, SeaweedFS and Java",
        *of_parts(server_parts("PostgreSQL")),
        "with real databases and stores",
        SERVERS,
        OWN_SERVERS,
    ),
    Requirement(
        "Kafka",
        *of_parts(server_parts("Kafka", "class cache of Kafka")),
        "with a real Kafka",
        KAFKA,
        OWN_KAFKA,
    ),
    Requirement(
        "Prometheus and promtool",
        *of_parts(server_parts("Prometheus")),
        "of alerts and dashboards",
        frozenset({"system"}),
        (
            *("tests/journeys/test_traces.py", "tests/infra/watching/test_alerts.py"),
            *("tests/charts/test_monitoring.py", *TWO_RELEASES),
        ),
    ),
    Requirement(
        "bubblewrap",
        *of_parts(server_parts("bubblewrap")),
        "of the sandbox for generated code",
        frozenset({"bubblewrap", "sandbox"}),
        ("tests/training/recipes/test_rlvr.py",),
    ),
    Requirement(
        "items of the benchmarks (86 MB to download)",
        *of_data(DATA_LOCK),
        "of benchmarks on their real items",
        frozenset({"benchmark_data"}),
    ),
    Requirement(
        "wandb and MLflow",
        lambda: tracking.home().exists(),
        lambda _say: tracking.install(),
        "of `--track` with the real packages",
        frozenset({"tracking_packages"}),
    ),
    Requirement(
        "manuals of Debian packages",
        *of_parts(lambda: [documentation.part()]),
        "of the data path on real pages",
        frozenset({"documentation"}),
        LIFE,
    ),
    Requirement(
        "lists of URLs",
        *of_data(URL_LISTS),
        "of the tour from a crawl to a chat model",
        paths=LIFE,
    ),
    Requirement(
        "openings of Wikipedia articles",
        *of_data(ARTICLES),
        "of the tour from a crawl to a chat model",
        paths=LIFE,
    ),
    Requirement(
        "Helm and kubectl",
        *of_parts(lambda: cluster.client_parts(cluster.locate())),
        "of the chart",
        paths=(
            *("tests/charts/", "tests/infra/simulate/kserve/", *TWO_RELEASES),
            "tests/architecture/test_adding_a_service.py",
            "tests/infra/watching/test_runbook_blocks.py",
        ),
    ),
    Requirement(
        "resource definitions of other operators",
        *of_parts(lambda: [definitions.part()]),
        "of the chart's objects against their definitions",
        paths=(
            "tests/charts/test_kinds.py",
            "tests/infra/install/definitions/test_installation.py",
        ),
    ),
)


def missing() -> list[Requirement]:
    """Return the requirements that are not installed."""
    return [one for one in REQUIREMENTS if not one.is_installed()]


def is_ci() -> bool:
    """Return True in CI, where no requirement may be missing."""
    return os.environ.get("CI", "") not in ("", "false", "0")


def main() -> None:
    say = partial(Terminal().say, SUPERVISOR)
    failed = []
    with as_command():
        for one in REQUIREMENTS:
            try:
                one.install(say)
            except (ServerError, tools.ToolError) as error:
                failed.append(one)
                say(f"missing: {one.name}; tests {one.about} are skipped. Reason: {error}")
    if failed and is_ci():
        sys.exit(f"==> CI=true: {', '.join(one.name for one in failed)} must be installed")


if __name__ == "__main__":
    main()
