"""Command line of training: `thumbwheel train COMMAND`; `--help` lists the commands.

Without the CLI, the same command line is `python -m training COMMAND`.

Exit status of `loop`: 0 the run ended (promoted, rolled back, refused, held or passed), 1 an error,
3 another loop is running, 4 too little feedback, 5 halted by an operator, 130 stopped by Ctrl-C or
by SIGTERM, which a cluster sends. Every training command that was stopped after a completed and
saved step exits with 143 after SIGTERM and with 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.benchmarks.commands import describe as describe_evaluation
from training.benchmarks.perplexity_command import describe as describe_perplexity
from training.commands import HALTED, REPORTED_ERRORS
from training.commands import describe as describe_loop
from training.data_commands import code_commit
from training.data_commands import describe as describe_data
from training.decoding.arguments import describe as describe_generate
from training.model_store.commands import describe as describe_import
from training.model_store.commands import describe_serving
from training.probes.commands import describe as describe_probes
from training.recipes.custom.arguments import describe as describe_custom
from training.recipes.nano_world.arguments import describe as describe_nano_base
from training.recipes.plan import describe as describe_plan
from training.recipes.pretraining.arguments import describe as describe_pretraining
from training.recipes.rlvr.arguments import describe as describe_rlvr
from training.recipes.tokenizer.commands import describe as describe_tokenizer
from training.reporting.commands import describe as describe_reports
from training.reviews.commands import describe as describe_reviews
from training.runs import FAILED, HaltedError, LoopRunningError
from training.runtime.context import StoppedError
from training.runtime.outputs import check_writable, describe_os_error
from training.verification.commands import describe as describe_tasks

ROOT = Path(__file__).resolve().parents[1]
# Options that name output paths. Only some commands write into the state.
OUTPUTS, STATE = ("output", "page", "work"), "state"
LOCKED, STOPPED, BY_SIGNAL = 3, 130, 128


def main(arguments: Sequence[str]) -> int:
    """Run the command of the first argument; return the exit status."""
    options = parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    outputs = _given(options, OUTPUTS)
    try:
        for output in outputs:
            check_writable(output)
        return command(options)
    except LoopRunningError as error:
        print(error, file=sys.stderr)
        return LOCKED
    except REPORTED_ERRORS as error:
        print(f"{FAILED}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None:
            raise  # an error of the code, not of a file
        print(
            f"{FAILED}: {describe_os_error(error, [*outputs, *_given(options, (STATE,))])}",
            file=sys.stderr,
        )
        return 1
    except StoppedError as error:
        print(f"{error}; the same command resumes there", file=sys.stderr)
        return BY_SIGNAL + error.stop_signal
    except HaltedError as error:
        print(error, file=sys.stderr)
        return HALTED
    except KeyboardInterrupt:
        print(f"stopped; {options.resumption}", file=sys.stderr)
        return STOPPED


def _given(options: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    return [path for name in names if (path := getattr(options, name, None)) is not None]


class _Parser(argparse.ArgumentParser):
    """Argument parser that prints the usage of the command for unknown options.

    argparse prints the usage of the root parser instead.
    """

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each describes itself."""
    # `thumbwheel evaluate …` and `thumbwheel models lineage …` run a command of this parser. The
    # command line of Thumbwheel puts its own name before the arguments.
    own = sys.argv[0]
    is_command = own.startswith("thumbwheel ") and own != "thumbwheel train"
    root: argparse.ArgumentParser = _Parser(
        prog=own.rpartition(" ")[0] if is_command else "thumbwheel train",
        description="From thumbs to a better model.",
    )
    root.set_defaults(resumption="the same command resumes from the last checkpoint")
    commands = root.add_subparsers(required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--state",
        type=Path,
        default=ROOT / ".state",
        help="state folder of the system (default: %(default)s); it contains the objects, "
        "unless TW_TRAINING_S3_* names a bucket",
    )
    common.add_argument(
        "--feedback", default="127.0.0.1:50056", metavar="HOST:PORT", help="the feedback service"
    )
    common.add_argument(
        "--tls",
        type=Path,
        nargs=3,
        metavar=("CERTIFICATE", "KEY", "AUTHORITY"),
        help="client certificate and key of training, and its trusted authorities (for mutual TLS)",
    )
    describe_loop(commands, common)
    describe_data(commands, common)
    describe_reviews(commands, common)
    describe_reports(commands, common)
    describe_evaluation(commands, common)
    describe_perplexity(commands, common)
    describe_probes(commands, common)
    describe_generate(commands)
    describe_nano_base(commands, code_commit)
    describe_pretraining(commands, code_commit)
    describe_tokenizer(commands, code_commit)
    describe_tasks(commands)
    describe_custom(commands, code_commit)
    describe_rlvr(commands, code_commit)
    describe_plan(commands)
    describe_import(commands)
    describe_serving(commands)
    return root


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
