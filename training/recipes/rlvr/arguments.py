"""Arguments of `thumbwheel train rlvr`.

The implementation is imported only when the command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from training.cluster.group import GPUS_HELP
from training.recipes.names import (
    RLVR_ALGORITHMS,
    RLVR_PROMPT_TOKENS,
    RLVR_RESPONSE_TOKENS,
    RLVR_SIZES,
)
from training.reporting.tracking import add_track
from training.runtime.context import DEVICE_HELP, Machine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the command `rlvr`."""
    rlvr = commands.add_parser("rlvr")
    rlvr.add_argument("--task", required=True, help="one of `tasks list`")
    rlvr.add_argument(
        "--level", type=int, help="difficulty, from 0; default: the defaults of the generator"
    )
    rlvr.add_argument(
        "--texts", type=Path, help="folder of the packages of locks/small_sft_texts.txt"
    )
    rlvr.add_argument(
        "--model", type=Path, required=True, metavar="DIRECTORY", help="initial model"
    )
    rlvr.add_argument(
        "--size", choices=RLVR_SIZES, default="small", help="tiny: all weights; small: LoRA"
    )
    rlvr.add_argument("--algorithm", choices=RLVR_ALGORITHMS, default="grpo")
    rlvr.add_argument("--updates", type=int, default=40)
    rlvr.add_argument("--items", type=int, default=1000, help="training items (default 1000)")
    rlvr.add_argument(
        "--held-out",
        type=int,
        default=200,
        metavar="ITEMS",
        help="items for measurement (default 200)",
    )
    rlvr.add_argument(
        "--samples", type=int, default=2, help="answers per held-out item (default 2)"
    )
    rlvr.add_argument(
        "--prompt-tokens", type=int, default=RLVR_PROMPT_TOKENS, help="longer prompts are dropped"
    )
    rlvr.add_argument(
        "--response-tokens",
        type=int,
        default=RLVR_RESPONSE_TOKENS,
        help="longer responses are cut off",
    )
    rlvr.add_argument(
        "--workers", type=int, default=0, help="Ray workers; 0 trains in this process"
    )
    rlvr.add_argument("--gpus-per-worker", type=int, default=0, help=GPUS_HELP)
    rlvr.add_argument("--rollout-actors", type=int, default=0, help="Ray actors that sample")
    rlvr.add_argument("--device", default=Machine.device, help=DEVICE_HELP)
    rlvr.add_argument("--work", type=Path, required=True, help="folder for items, run and model")
    add_track(rlvr)

    def train(options: argparse.Namespace) -> int:
        from training.recipes.rlvr.commands import train_on_task

        return train_on_task(options, code_commit())

    rlvr.set_defaults(command=train)
