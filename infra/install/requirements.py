"""Requirements of `make test` beyond Python packages: install each, and name those that are missing
with the tests they remove.

`python -m infra.install.requirements` is the first step of `make test`. tests/conftest.py skips the
tests of a missing requirement, with its name as the reason. With CI=true nothing may be missing:
this command fails, and no test is skipped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from infra.cluster import installation as cluster
from infra.definitions import installation as definitions
from infra.install import tools
from infra.servers import installation as servers
from infra.servers.errors import ServerError
from infra.servers.installation import Part
from infra.supervision import interruption
from infra.supervision.terminal import SUPERVISOR, Terminal

Say = Callable[[str], None]


@dataclass(frozen=True)
class Requirement:
    """One program or data set that some tests need.

    Args:
        name: what it is called in messages.
        is_installed: whether it is in the cache.
        install: puts it there; raises ServerError or ToolError if it cannot.
        about: which tests need it, in words.
        fixtures: names of fixtures whose tests need it.
        paths: beginnings of paths of test modules that need it.
    """

    name: str
    is_installed: Callable[[], bool]
    install: Callable[[Say], object]
    about: str
    fixtures: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    def is_needed_by(self, path: str, fixtures: set[str]) -> bool:
        """Return True for a test that needs it; `path`: of the module, relative to the root;
        `fixtures`: names of all its fixtures.
        """
        return path.startswith(self.paths or ("\0",)) or not self.fixtures.isdisjoint(fixtures)


def of_parts(
    parts: Callable[[], Sequence[Part]],
) -> tuple[Callable[[], bool], Callable[[Say], None]]:
    """`is_installed` and `install` of a requirement that consists of parts; a ServerError about the
    choice of parts means missing.
    """

    def is_installed() -> bool:
        try:
            return all(part.home.exists() for part in parts())
        except ServerError:
            return False

    return is_installed, lambda say: servers.fill_missing(parts(), say)


def server_parts(*names: str) -> Callable[[], list[Part]]:
    """The parts of the real servers whose description begins with one of the names."""
    return lambda: [part for part in servers.parts(servers.locate()) if part.what.startswith(names)]


SERVERS = frozenset({"postgres", "valkey", "s3", "kafka", "kafka_of_three", "system"})
KAFKA = frozenset({"kafka", "kafka_of_three", "system"})
# Modules whose tests start servers of their own.
OWN_KAFKA = (
    "tests/faults/test_f05",
    "tests/faults/test_f07",
    "tests/infra/evaluation_stores/",
    "tests/infra/servers/test_fleet.py",
    "tests/journeys/test_real_servers.py",
)
OWN_SERVERS = (
    *OWN_KAFKA,
    "tests/charts/test_evaluation.py",
    "tests/faults/test_f21",
    "tests/faults/test_f22",
    "tests/infra/servers/test_valkey.py",
)
REQUIREMENTS = (
    Requirement(
        "Chromium",
        lambda: tools.browser().exists(),
        lambda _say: tools.install_browser(),
        "of the pages, in a browser",
        paths=("tests/journeys/test_page.py", "tests/training/tokenization/test_page.py"),
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
        *of_parts(server_parts("Kafka")),
        "with a real Kafka",
        KAFKA,
        OWN_KAFKA,
    ),
    Requirement(
        "Prometheus and promtool",
        *of_parts(server_parts("Prometheus")),
        "of alerts and dashboards",
        frozenset({"system"}),
        ("tests/journeys/test_traces.py", "tests/infra/watching/test_alerts.py"),
    ),
    Requirement(
        "bubblewrap",
        *of_parts(server_parts("bubblewrap")),
        "of the sandbox for generated code",
        frozenset({"bubblewrap", "sandbox"}),
        ("tests/training/recipes/test_rlvr.py",),
    ),
    Requirement(
        "Helm and kubectl",
        *of_parts(lambda: cluster.client_parts(cluster.locate())),
        "of the chart",
        paths=("tests/charts/", "tests/infra/kserve_simulation/"),
    ),
    Requirement(
        "resource definitions of other operators",
        *of_parts(lambda: [definitions.part()]),
        "of the chart's objects against their definitions",
        paths=("tests/charts/test_kinds.py", "tests/infra/definitions/test_installation.py"),
    ),
)


def missing() -> list[Requirement]:
    """The requirements that are not installed."""
    return [one for one in REQUIREMENTS if not one.is_installed()]


def is_ci() -> bool:
    """Return True in CI, where no requirement may be missing."""
    return os.environ.get("CI", "") not in ("", "false", "0")


def main() -> None:
    interruption.stop_like_ctrl_c()
    say = partial(Terminal().say, SUPERVISOR)
    failed = []
    try:
        for one in REQUIREMENTS:
            try:
                one.install(say)
            except (ServerError, tools.ToolError) as error:
                failed.append(one)
                say(f"missing: {one.name}; tests {one.about} are skipped. Reason: {error}")
    except KeyboardInterrupt:
        interruption.leave()
    if failed and is_ci():
        sys.exit(f"==> CI=true: {', '.join(one.name for one in failed)} must be installed")


if __name__ == "__main__":
    main()
