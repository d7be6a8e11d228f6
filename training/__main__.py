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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from itertools import takewhile
from pathlib import Path
from typing import Any, NoReturn

from training.errors import REPORTED_ERRORS, did_you_mean
from training.reporting.tracking import check_installed
from training.runs import FAILED, HALTED, HaltedError, LoopRunningError
from training.runtime.context import StoppedError
from training.runtime.paths import check_writable, describe_os_error

ROOT = Path(__file__).resolve().parents[1]
# Options that name output paths. Only some commands write into the state.
OUTPUTS, STATE = ("output", "page", "work"), "state"
USAGE_ERROR, LOCKED, STOPPED, BY_SIGNAL = 2, 3, 130, 128


@dataclass(frozen=True)
class Command:
    """A command, whose name and summary are listed without an import of its module.

    module: its function `describe` adds the command to the command line, and others of the module.
    """

    summary: str
    module: str


CUSTOM, PRETRAINING = "training.recipes.custom.arguments", "training.recipes.pretraining.arguments"
DATA, REPORTING = "training.data_commands", "training.reporting.commands"
LOOP, REVIEWS = "training.commands", "training.reviews.commands"
STORE = "training.model_store.commands"
# The order is that of a first model; commands that the loop or the system calls are last.
GROUPS: Mapping[str, Mapping[str, Command]] = {
    "train a model": {
        "tokenizer": Command(
            "train, compare and show tokenizers", "training.recipes.tokenizer.commands"
        ),
        "pretrain": Command("pre-train a decoder from scratch", PRETRAINING),
        "sft": Command("train on given responses", CUSTOM),
        "dpo": Command("train on preferred and rejected responses, without a reward model", CUSTOM),
        "kto": Command("train on single thumbs, without a reward model", CUSTOM),
        "reward-model": Command("train a model of human preferences between two responses", CUSTOM),
        "ppo": Command("train on scores of the model's own samples, with a critic", CUSTOM),
        "grpo": Command("train on scores of groups of the model's own samples", CUSTOM),
        "rlvr": Command(
            "train on a task with computed verdicts", "training.recipes.rlvr.arguments"
        ),
        "tasks": Command(
            "prompts whose responses are verified by computation", "training.verification.commands"
        ),
    },
    "use and compare models": {
        "chat": Command(
            "talk with a model directory, or with two at once", "training.decoding.arguments"
        ),
        "generate": Command(
            "answer a prompt, or continue a text, with a model directory",
            "training.decoding.arguments",
        ),
        "evaluate": Command("score a model on benchmarks", "training.benchmarks.commands"),
        "perplexity": Command(
            "perplexity and bits per byte of a model on texts",
            "training.benchmarks.perplexity_command",
        ),
        "probes": Command(
            "measure safety, sycophancy, knowledge and style of a model",
            "training.probes.commands",
        ),
        "compare": Command("compare settings and results of runs, the best first", REPORTING),
        "report": Command("rebuild the pages of a run", REPORTING),
        "import": Command("import a model as a version", STORE),
    },
    "plan and scale": {
        "plan": Command(
            "memory and time of a recipe for open models, or why it does not fit",
            "training.recipes.plan",
        ),
        "run": Command("run all stages of a recipe in order", CUSTOM),
        "scaling": Command("report on loss over compute for three sizes", PRETRAINING),
        "memory": Command("memory of a model on the GPU of a server, before it is started", STORE),
    },
    "the loop on the feedback of users": {
        "loop": Command("one run; an interrupted run is resumed", LOOP),
        "canary": Command("try an existing model directory on users", LOOP),
        "snapshot": Command("take a snapshot now", DATA),
        "forget": Command("apply erasures to training data; loop does this too", DATA),
        "lineage": Command("feedback each version learned from, and its erasures", DATA),
        "publish": Command("copy a version into an object store, as the loop does", DATA),
        "prune": Command("remove old versions that no user and no run needs", DATA),
        "draw": Command("draw stored answers for reviewers", REVIEWS),
        "export": Command("write complete reviews for evaluations", REVIEWS),
        "appeals": Command("write decided appeals as texts and cases for the guard", REVIEWS),
        "nano-base": Command(
            "train models/nano, or a larger model of its world, from scratch",
            "training.recipes.nano_world.arguments",
        ),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
EXAMPLE = """example, with a folder of texts and a file of conversations:
  thumbwheel train pretrain --shape one_million --texts notes/ --work work
  thumbwheel train sft --model work/one_million --data chats.jsonl --work work --name taught
  thumbwheel train chat work/taught

thumbwheel train COMMAND --help shows the options of a command.
"""


def main(arguments: Sequence[str]) -> int:
    """Run the command of the first argument; return the exit status."""
    options = parser(arguments[0] if arguments else "").parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    outputs = _given(options, OUTPUTS)
    try:
        for output in outputs:
            check_writable(output)
        check_installed(getattr(options, "track", ()))
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
    """Argument parser whose errors are one line with the nearest command, option or choice.

    argparse prints the usage, and for unknown options that of the root parser.
    """

    def format_help(self) -> str:
        """Return the help, whose usage names the required options only."""
        if self.usage is None:
            needed = [one for one in self._actions if one.required or not one.option_strings]
            formatter = self._get_formatter()
            formatter.add_usage(None, needed, [], prefix="")
            self.usage = f"{' '.join(formatter.format_help().split())} [options]"
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        known = self._option_string_actions
        words: Iterable[str] = takewhile("--".__ne__, args)
        if self._subparsers:  # the rest belongs to the command
            words = takewhile(lambda word: word.startswith("-"), words)
        # A mistyped option is named before the required one that is then missing.
        for word in words:
            option = word.partition("=")[0]
            if word.startswith("--") and not any(name.startswith(option) for name in known):
                self.error(f"{option} is not an option{did_you_mean(option, known)}")
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown arguments: {' '.join(unknown)}")
        return options, unknown

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(one) for one in action.choices]
        is_command = isinstance(action, argparse._SubParsersAction)
        kind = "a command" if is_command else f"one of {', '.join(known)}"
        raise argparse.ArgumentError(
            None if is_command else action,
            f"{str(value)!r} is not {kind}{did_you_mean(str(value), known)}",
        )

    def error(self, message: str) -> NoReturn:
        more = "" if message.endswith("?") else f" ({self.prog} --help lists all)"
        self.exit(USAGE_ERROR, f"{self.prog}: {message}{more}\n")


class _Root(_Parser):
    """Parser of the first argument, whose help lists the commands in groups."""

    def format_help(self) -> str:
        width = max(map(len, COMMANDS))
        lines = [self.format_usage(), self.description or ""]
        for title, group in GROUPS.items():
            listed = [f"  {name:<{width}}  {one.summary}" for name, one in group.items()]
            lines += ["", f"{title}:", *listed]
        return "\n".join([*lines, "", EXAMPLE])


def parser(name: str | None = None) -> argparse.ArgumentParser:
    """Return the command line with the options of one command, or of all.

    Args:
        name: command whose module is imported; None: all modules are. For a name that is no
            command, such as --help, none is imported.
    """
    # `thumbwheel evaluate …` and `thumbwheel models lineage …` run a command of this parser. The
    # command line of Thumbwheel puts its own name before the arguments.
    own = sys.argv[0]
    is_command = own.startswith("thumbwheel ") and own != "thumbwheel train"
    root = _Root(
        prog=own.rpartition(" ")[0] if is_command else "thumbwheel train",
        description="Train, evaluate and sample models, from a folder of texts to an aligned model",
    )
    root.set_defaults(resumption="the same command resumes from the last checkpoint")
    commands = root.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    state = argparse.ArgumentParser(add_help=False)
    state.add_argument(
        "--state",
        type=Path,
        default=ROOT / ".state",
        metavar="DIR",
        help="state folder of the system (default: %(default)s); it contains the objects, "
        "unless TW_TRAINING_S3_* names a bucket",
    )
    services = argparse.ArgumentParser(add_help=False, parents=[state])
    services.add_argument(
        "--feedback",
        default="127.0.0.1:50056",
        metavar="HOST:PORT",
        help="the feedback service (default: %(default)s)",
    )
    services.add_argument(
        "--tls",
        type=Path,
        nargs=3,
        metavar=("CERTIFICATE", "KEY", "AUTHORITY"),
        help="client certificate and key of training, and its trusted authorities (for mutual TLS)",
    )
    given = {"state": state, "services": services, "code_commit": _code_commit}
    asked = [one for one in COMMANDS if name in (None, one)]
    for module in dict.fromkeys(COMMANDS[one].module for one in asked):
        describe = import_module(module).describe
        wanted = signature(describe).parameters.keys() & given.keys()
        describe(commands, **{parameter: given[parameter] for parameter in wanted})
    for one, command in COMMANDS.items():
        described = commands.choices.get(one) or commands.add_parser(one)
        summary = f"{command.summary[:1].upper()}{command.summary[1:]}."
        text = described.description
        described.description = f"{summary}\n\n{text}" if text else summary
    return root


def _code_commit() -> str:
    from training.data_commands import code_commit

    return code_commit()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
