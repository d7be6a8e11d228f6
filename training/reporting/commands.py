"""`python -m training report RUN` and `python -m training compare RUN RUN`. A run is a turn of the
loop by its name, or a directory in which stages ran.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from training.errors import ConfigError
from training.lineage import trace
from training.registry import Registry
from training.reporting.comparison import compare, text_of, write_comparison
from training.reporting.run import write_report
from training.reporting.stage import read_stages, write_stage_page
from training.runs import RECORD, Runs

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands, state: argparse.ArgumentParser) -> None:
    """Add both to the command line. state: the options that say where the loop's state is."""
    again = commands.add_parser("report", parents=[state], help="build a run's pages again")
    again.add_argument("run", help="for example nano-1, or a directory in which stages ran")
    again.add_argument(
        "--dollars-per-worker-hour", type=float, metavar="PRICE", help="what the page's cost is of"
    )
    again.set_defaults(command=report)
    two = commands.add_parser(
        "compare", parents=[state], help="two runs: what was asked otherwise, and what came of it"
    )
    two.add_argument("first", help="for example nano-1, or a directory in which stages ran")
    two.add_argument("second")
    two.add_argument(
        "--page", type=Path, metavar="FILE", help="also as a page with curves and samples"
    )
    two.set_defaults(command=compare_runs)


def report(options: argparse.Namespace) -> int:
    """The turn's page where it is one, and each stage's.

    Raises:
        ConfigError: no such run.
    """
    directory, runs = _directory(options, options.run), Runs(options.state / "loop")
    stages = read_stages(directory)
    turn = directory / RECORD
    if not stages and not turn.exists():
        raise ConfigError(f"run: {options.run}: no stage began there", field="run", reason="EMPTY")
    for stage in stages:
        print(write_stage_page(stage.directory, options.dollars_per_worker_hour))
    if turn.exists():
        name = directory.name
        ancestries = trace(runs, Registry(options.state / "models"))
        ancestry = next(ancestry for ancestry in ancestries if ancestry.version == name)
        print(
            write_report(
                directory, runs.snapshots / runs.record(name).snapshot, runs.result(name), ancestry
            )
        )
    return 0


def compare_runs(options: argparse.Namespace) -> int:
    """Raises: ConfigError: no such run. ComparisonError: nothing to compare."""
    pairs = compare(_directory(options, options.first), _directory(options, options.second))
    print(text_of(pairs))
    if options.page is not None:
        print(write_comparison(pairs, options.page))
    return 0


def _directory(options: argparse.Namespace, run: str) -> Path:
    """Where a run lies: a turn of the loop by its name, else a path."""
    turn = Runs(options.state / "loop").directory(run)
    if turn.is_dir():
        return turn
    if Path(run).is_dir():
        return Path(run)
    raise ConfigError(
        f"run: {run} is no folder, and no turn of the loop under --state {options.state}",
        field="run",
        reason="UNKNOWN",
    )
