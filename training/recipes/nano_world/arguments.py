"""Arguments and output of `thumbwheel train nano-base`.

The implementation is imported only when the command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from training.recipes.names import WORLD_BASES

if TYPE_CHECKING:
    from training.runtime.context import Progress

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

NANO = "nano"
COMMITTED = Path(__file__).parents[3] / "models" / NANO
PRINT_EVERY_STEPS = 20


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the command `nano-base` to the parser."""
    parser = commands.add_parser("nano-base")
    parser.add_argument(
        "--family",
        choices=WORLD_BASES,
        default=NANO,
        help="nano, or 5 M weights in the form of Llama 3 or Qwen3 (default: %(default)s)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder for intermediate files (default: .state/FAMILY-base)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the model (default: models/nano; for other families in the cache, where a "
        "finished model is kept)",
    )
    parser.set_defaults(command=lambda options: make_base(options, code_commit()))


def make_base(options: argparse.Namespace, code_commit: str) -> int:
    """Train a base, and for nano write the texts that belong to it."""
    from training.artifacts.manifest import finished_manifest
    from training.recipes.nano_world.bases import BASES
    from training.recipes.nano_world.train_base import cached_base, train_base, write_texts
    from training.recipes.recipe import TEXTS

    def show(progress: Progress) -> None:
        if progress.step % PRINT_EVERY_STEPS == 0:
            loss = progress.metrics["loss"]
            print(
                f"{progress.stage}: {progress.step} of {progress.total_steps}, loss {loss:.3f}",
                flush=True,
            )

    base, output = BASES[options.family], options.output
    found = "is in"
    if options.family == NANO:
        write_texts(TEXTS)
        output = output or COMMITTED
    if output is None and options.work is None:
        found = "was in the cache:" if finished_manifest(base.cached) else found
        output = cached_base(base, code_commit, show)
    else:
        work = options.work or Path(".state") / f"{options.family}-base"
        output = output or base.cached
        train_base(base, work, output, code_commit, show)
    print(f"{base.version} {found} {output}")
    return 0
