"""Option `--track` of the training commands: runs in wandb and MLflow beside their files.

Both are optional packages. Without a server's address in the environment they write to a folder.
This module imports neither, because every command line needs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from training.errors import ConfigError

FOLDER = "tracking"  # in the folder of the output, for runs without a server
INSTALL = "python3 infra/install/environment.py tracking"
# Packages of each tracker; MLflow's client needs the others for its database in a folder.
PACKAGES: Mapping[str, Sequence[str]] = {
    "wandb": ("wandb",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
HELP = (
    "also record the run there; repeatable; offline in the output folder, unless WANDB_MODE=online "
    "or MLFLOW_TRACKING_URI selects a server"
)


@dataclass(frozen=True)
class Tracking:
    """Trackers of a command, and the folder of those without a server."""

    names: tuple[str, ...] = ()
    directory: Path = Path()


def add_track(parser: argparse.ArgumentParser) -> None:
    """Add the option to the parser of a training command."""
    parser.add_argument("--track", action="append", default=[], choices=PACKAGES, help=HELP)


def tracking_in(work: Path, names: Sequence[str]) -> Tracking:
    """Return the trackers of a command with this output folder."""
    return Tracking(tuple(dict.fromkeys(names)), work.absolute() / FOLDER)


def check_installed(names: Sequence[str]) -> None:
    """Check the packages of trackers, before anything is written.

    Raises:
        ConfigError: a package is not installed.
    """
    for package in (package for name in names for package in PACKAGES[name]):
        found = find_spec(package)
        # A folder of this name is found without a file.
        if found is None or found.origin is None:
            raise ConfigError(
                f"track: {package} is not installed; install it with {INSTALL}",
                field="track",
                reason="MISSING",
                limit=INSTALL,
            )
