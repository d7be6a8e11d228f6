"""Commands `thumbwheel train report RUN` and `thumbwheel train compare RUN RUN …`.

RUN is the version of a run of the loop, or a directory with stages.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from training.artifacts.lineage import trace
from training.artifacts.registry import Registry
from training.errors import ConfigError
from training.reporting.comparison import compare, text_of, write_comparison
from training.reporting.run import write_report
from training.reporting.stage import read_stages, write_stage_page
from training.runs import RECORD, Runs

WITHOUT_TERMINAL = (120, 24)  # columns and lines of output to a file

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands, state: argparse.ArgumentParser) -> None:
    """Add both commands to the command line.

    Args:
        state: parser with the options for the loop's state.
    """
    again = commands.add_parser("report", parents=[state])
    again.add_argument(
        "run", metavar="RUN", help="version such as nano-1, or a directory with stages"
    )
    again.add_argument(
        "--dollars-per-worker-hour",
        type=float,
        metavar="PRICE",
        help="price for the cost on the page",
    )
    again.set_defaults(command=report)
    several = commands.add_parser("compare", parents=[state])
    several.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="two or more versions such as nano-1 or directories with stages, or one folder of "
        "runs",
    )
    several.add_argument(
        "--sort",
        default="",
        metavar="FIGURE",
        help="figure that sorts the runs (default: the held-out figure)",
    )
    several.add_argument(
        "--page", type=Path, metavar="FILE", help="also write a page with curves and samples"
    )
    several.set_defaults(command=compare_runs)


def report(options: argparse.Namespace) -> int:
    """Build the page of a run of the loop, and the page of each stage.

    Raises:
        ConfigError: the run does not exist.
    """
    directory, runs = _directory(options, options.run), Runs(options.state / "loop")
    stages = read_stages(directory)
    record = directory / RECORD
    if not stages and not record.exists():
        raise ConfigError(
            f"run: {options.run}: no stage started there", field="run", reason="EMPTY"
        )
    for stage in stages:
        print(write_stage_page(stage.directory, options.dollars_per_worker_hour))
    if record.exists():
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
    """Print the comparison of several runs.

    Raises:
        ConfigError: a run does not exist.
        ComparisonError: the runs cannot be compared.
    """
    found = compare([_directory(options, run) for run in options.runs], options.sort)
    print(text_of(found, shutil.get_terminal_size(WITHOUT_TERMINAL).columns))
    if options.page is not None:
        print(write_comparison(found, options.page))
    return 0


def _directory(options: argparse.Namespace, run: str) -> Path:
    """Return the folder of a run, given as version or as path."""
    of_loop = Runs(options.state / "loop").directory(run)
    if of_loop.is_dir():
        return of_loop
    if Path(run).is_dir():
        return Path(run)
    raise ConfigError(
        f"run: {run} is neither a folder nor a run of the loop under --state {options.state}",
        field="run",
        reason="UNKNOWN",
    )
