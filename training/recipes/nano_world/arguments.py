"""Arguments and output of `thumbwheel train nano-base`.

The implementation is imported only when the command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.runtime.context import Progress

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

NANO = Path(__file__).parents[3] / "models" / "nano"
PRINT_EVERY_STEPS = 20


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the command `nano-base` to the parser."""
    parser = commands.add_parser("nano-base", help="train models/nano from scratch, in ten minutes")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".state") / "nano-base",
        help="folder for intermediate files",
    )
    parser.add_argument("--output", type=Path, default=NANO)
    parser.set_defaults(command=lambda options: make_base(options, code_commit()))


def make_base(options: argparse.Namespace, code_commit: str) -> int:
    """Train the base of nano and write the texts that belong to it."""
    from training.recipes.nano_world.train_base import train_base, write_texts
    from training.recipes.recipe import TEXTS

    write_texts(TEXTS)

    def show(progress: Progress) -> None:
        if progress.step % PRINT_EVERY_STEPS == 0:
            loss = progress.metrics["loss"]
            print(
                f"{progress.stage}: {progress.step} of {progress.total_steps}, loss {loss:.3f}",
                flush=True,
            )

    manifest = train_base(options.work, options.output, code_commit, show)
    print(f"{manifest.version} is in {options.output}")
    return 0
