"""Arguments of `thumbwheel train generate`. The implementation is imported on use."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from training.decoding.tasks import DEFAULT_MAX_TOKENS, MAX_TOKENS, Task
from training.runtime.context import DEVICE_HELP, Machine

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def describe(commands: Commands) -> None:
    """Add the `generate` subcommand."""
    parser = commands.add_parser(
        "generate", help="answer a prompt, or continue a text, with a model directory"
    )
    parser.add_argument("directory", type=Path, metavar="DIRECTORY")
    parser.add_argument(
        "--prompt", required=True, help="a user's message; with --plain a text to continue"
    )
    parser.add_argument("--plain", action="store_true", help="without the chat template")
    parser.add_argument(
        "--task",
        type=Task,
        choices=list(Task),
        default=Task.CHAT,
        help="preset of sampling parameters (default chat)",
    )
    parser.add_argument("--temperature", type=float, help="0 to 2; 0 is greedy decoding")
    parser.add_argument("--top-p", type=float, help="probability mass of the nucleus, above 0 to 1")
    parser.add_argument("--top-k", type=int, help="sample from the k likeliest tokens; 0: all")
    parser.add_argument(
        "--min-p", type=float, help="minimum probability, as a share of the likeliest token's"
    )
    parser.add_argument(
        "--repetition-penalty", type=float, help="values above 1 discourage repeated tokens"
    )
    parser.add_argument(
        "--max-tokens", type=int, help=f"1 to {MAX_TOKENS} (default: up to {DEFAULT_MAX_TOKENS})"
    )
    parser.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="stop string; may be given up to 4 times",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="random seed; equal seeds give equal answers (default 0)",
    )
    parser.add_argument("--device", default=Machine.device, help=DEVICE_HELP)
    parser.add_argument(
        "--beams", type=int, metavar="N", help="use beam search with N beams instead of sampling"
    )
    parser.set_defaults(command=_generate)


def _generate(options: argparse.Namespace) -> int:
    from training.decoding.command import generate

    return generate(options)
