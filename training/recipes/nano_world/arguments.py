"""What `python -m training nano-base` takes, and what it says. What it does is imported once it is
asked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.stages.context import Progress

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

NANO = Path(__file__).parents[3] / "models" / "nano"
SAY_EVERY_STEPS = 20


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the command."""
    made = commands.add_parser("nano-base", help="make models/nano from nothing, in ten minutes")
    made.add_argument(
        "--work",
        type=Path,
        default=Path(".state") / "nano-base",
        help="folder of the intermediate files",
    )
    made.add_argument("--output", type=Path, default=NANO)
    made.set_defaults(command=lambda options: make_base(options, code_commit()))


def make_base(options: argparse.Namespace, code_commit: str) -> int:
    """Nano's base, and the texts that belong to it."""
    from training.recipes.nano_world.train_base import bring_up, write_texts
    from training.recipes.recipe import TEXTS

    write_texts(TEXTS)

    def show(progress: Progress) -> None:
        if progress.step % SAY_EVERY_STEPS == 0:
            loss = progress.metrics["loss"]
            print(
                f"{progress.stage}: {progress.step} of {progress.total_steps}, loss {loss:.3f}",
                flush=True,
            )

    manifest = bring_up(options.work, options.output, code_commit, show)
    print(f"{manifest.version} is in {options.output}")
    return 0
