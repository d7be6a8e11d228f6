"""Arguments of `thumbwheel train rlvr`.

The implementation is imported only when the command runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from training.errors import Renamed
from training.recipes.custom.arguments import (
    SET_OF_POLICY,
    FieldsHelp,
    add_model,
    add_running,
)
from training.recipes.names import RLVR_ALGORITHMS
from training.verification.commands import add_task

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

RENAMED = {
    "--size": "--set prompts_per_update=N and --set samples_per_prompt=N",
    "--updates": "--set updates=N",
    "--prompt-tokens": "--set max_prompt_tokens=N",
    "--response-tokens": "--set max_response_tokens=N",
    "--device": "--set machine.device=NAME",
}


def describe(commands: Commands, code_commit: Callable[[], str]) -> None:
    """Add the command `rlvr`."""
    rlvr = commands.add_parser(
        "rlvr",
        description="The command writes items of the task, measures the model on held-out items, "
        "trains it by\nGRPO or PPO with verdicts as scores (0: wrong, 1: right), and measures it "
        "again. For a file of\nyour own prompts with tasks: `tasks write` and `grpo`.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    rlvr.add_argument(
        "-h", "--help", action=FieldsHelp, const=_fields, nargs=0, help=FieldsHelp.TEXT
    )
    add_task(rlvr, "--task")
    add_model(rlvr)
    rlvr.add_argument(
        "--lora",
        action=argparse.BooleanOptionalAction,
        help="train low-rank adapters, or all weights (default: all weights of models below 50 "
        "million weights)",
    )
    rlvr.add_argument(
        "--algorithm",
        choices=RLVR_ALGORITHMS,
        default="grpo",
        help="grpo compares the samples of a prompt, ppo has a critic (default: grpo)",
    )
    rlvr.add_argument(
        "--name",
        metavar="NAME",
        help="name of the trained model, a folder in --work (default: MODEL-TASK-ALGORITHM)",
    )
    rlvr.add_argument(
        "--items", type=int, default=1000, metavar="N", help="training items (default: 1000)"
    )
    rlvr.add_argument(
        "--held-out",
        type=int,
        default=200,
        metavar="N",
        help="items that are measured and never trained on (default: 200)",
    )
    rlvr.add_argument(
        "--samples",
        type=int,
        default=2,
        metavar="N",
        help="answers to each held-out item (default: 2)",
    )
    for option, field in RENAMED.items():
        rlvr.add_argument(option, action=Renamed, const=field, help=argparse.SUPPRESS)
    add_running(rlvr, SET_OF_POLICY, samples=True)

    def train(options: argparse.Namespace) -> int:
        from training.recipes.rlvr.recipe import checked_run

        name, group = checked_run(options)
        # Imports torch, so all options are checked before.
        from training.recipes.rlvr.commands import train_on_task

        return train_on_task(options, name, group, code_commit())

    rlvr.set_defaults(command=train)


def _fields() -> str:
    from training.recipes.rlvr.recipe import settable_fields

    return settable_fields()
