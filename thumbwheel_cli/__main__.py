"""`thumbwheel COMMAND …` runs the module behind a subcommand; `thumbwheel --help` lists all.

Only the module of the given subcommand is imported, so that help is fast and a machine needs only
the dependency groups of the commands that it runs.
"""

import importlib.util
import os
import runpy
import select
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
USAGE_ERROR = 2
LEAST_ALIKE = 0.85  # of two words, because the first is often right
HELP = ("-h", "--help", "help")
# Titles of the list of commands, with the first words of their names.
SECTIONS = {
    "run the system": ("up", "stack", "loop", "canary", "demo", "life"),
    "train and evaluate models": ("train", "data", "evaluate", "models", "review"),
    "operate the system": ("audit", "keys", "halt", "restore", "resume", "rollout"),
}
# One package of each dependency group that no other group installs.
PROBES = {
    "services": "starlette",
    "predictor": "openvino",
    "training": "torch",
    "evaluation": "lm_eval",
    "corpus": "scrapy",
}


@dataclass(frozen=True)
class Command:
    """A subcommand and its module.

    Args:
        summary: one line for the list of commands.
        module: run as `python -m module`.
        words: arguments before those of the user.
        groups: dependency groups of the module's imports.
        image_module: module that runs in an image, which has no state folder; by default `module`.
        is_slow: its imports take many seconds on a busy machine, so a line is printed before them.
    """

    summary: str
    module: str
    words: tuple[str, ...] = ()
    groups: tuple[str, ...] = ("services",)
    image_module: str = ""
    is_slow: bool = False

    def module_here(self) -> str:
        """Return the module to run in this clone or image."""
        is_clone = (ROOT / "infra" / "run").is_dir()
        return self.module if is_clone else self.image_module or self.module


EMBEDDED, USERS, TRAINING = "infra.run.embedded", "infra.simulate.users", "training"
OPERATE, REVIEWS = "infra.run.operate", "infra.run.reviews"
WITH_TRAINING = ("services", "predictor", "training")
COMMANDS = {
    "up": Command("run the whole system, print one URL", EMBEDDED, ("up",)),
    "stack": Command(
        "run the system on real Kafka, Postgres, Valkey and S3", "infra.run.stack", ("up",)
    ),
    "loop": Command("run the training loop once", EMBEDDED, ("loop",), WITH_TRAINING),
    "canary": Command(
        "try an existing version on users, who decide", EMBEDDED, ("canary",), WITH_TRAINING
    ),
    "demo": Command("simulate users, run the loop, judge the result", USERS, ("demo",)),
    "life": Command(
        "crawl, clean, train and chat with a small model, offline",
        "infra.life",
        groups=(*WITH_TRAINING, "corpus"),
    ),
    "train": Command("train, evaluate and sample models", TRAINING, groups=("training",)),
    "data crawl": Command(
        "download pages of allowed hosts into WARC files",
        "training.corpus",
        ("crawl",),
        ("corpus",),
    ),
    "data build": Command(
        "build a corpus: clean, remove duplicates, tokenize",
        "training.corpus",
        ("build",),
        ("corpus", "training"),
    ),
    "data why": Command(
        "show why a page is in a corpus or not", "training.corpus", ("why",), ("corpus", "training")
    ),
    "data remove": Command(
        "remove pages from a corpus, name the models that saw them",
        "training.corpus",
        ("remove",),
        ("corpus", "training"),
    ),
    "data chat": Command(
        "convert tables of instructions for train sft",
        "training.corpus",
        ("chat",),
        ("corpus",),
    ),
    "data pii": Command("replace personal data in texts", "training.corpus", ("pii",), ("corpus",)),
    "data tokenizers": Command(
        "compare tokenizers on texts, by language", "training.corpus", ("tokenizers",), ("corpus",)
    ),
    "data items": Command(
        "index the evaluation's items for the decontamination of training texts",
        "training.corpus",
        ("items",),
        ("corpus",),
    ),
    "evaluate": Command(
        "score a model on benchmarks",
        TRAINING,
        ("evaluate",),
        ("predictor", "training", "evaluation"),
        is_slow=True,
    ),
    "evaluate perplexity": Command(
        "perplexity and bits per byte of a model on texts",
        TRAINING,
        ("perplexity",),
        ("training",),
        is_slow=True,
    ),
    "evaluate probes": Command(
        "measure safety, sycophancy, knowledge and style of a model",
        TRAINING,
        ("probes",),
        ("predictor", "training"),
        is_slow=True,
    ),
    "models fetch": Command(
        "install a model: small, a directory or a hub id", "infra.install.small_model"
    ),
    "models import": Command(
        "import a model from a directory, an object store or the hub",
        TRAINING,
        ("import",),
        ("training",),
        is_slow=True,
    ),
    "models lineage": Command(
        "list versions and the data behind them", TRAINING, ("lineage",), ("training",)
    ),
    "models publish": Command(
        "copy a version into an object store", TRAINING, ("publish",), ("training",)
    ),
    "models memory": Command(
        "memory of a model on the GPU of a server", TRAINING, ("memory",), ("training",)
    ),
    "models prune": Command(
        "remove old versions that no user and no run needs", TRAINING, ("prune",), ("training",)
    ),
    "models forget": Command(
        "apply erasures to training data", TRAINING, ("forget",), ("training",)
    ),
    "review draw": Command(
        "draw stored answers for reviewers",
        REVIEWS,
        ("draw",),
        ("training",),
        image_module=TRAINING,
    ),
    "review export": Command(
        "write complete reviews for evaluations",
        REVIEWS,
        ("export",),
        ("training",),
        image_module=TRAINING,
    ),
    "review appeals": Command(
        "write decided appeals as texts and cases for the guard",
        REVIEWS,
        ("appeals",),
        ("training",),
        image_module=TRAINING,
    ),
    "audit": Command("print administrative acts as JSON", OPERATE, ("audit",)),
    "keys master": Command(
        "wrap the keys of stored texts under a new master key", OPERATE, ("rotate-master-key",)
    ),
    "keys identity": Command(
        "create, list and retire keys that sign calls between services",
        "services.gateway",
        ("identity",),
    ),
    "halt": Command("end the canary, stop promotions and training", OPERATE, ("halt",)),
    "restore": Command("make an earlier version stable, during a halt", OPERATE, ("restore",)),
    "resume": Command("lift a halt", OPERATE, ("resume",)),
    "rollout": Command("show versions, canary and halt", OPERATE, ("rollout",)),
    "keys": Command(
        "create, list, rotate and revoke API keys",
        OPERATE,
        ("keys",),
        image_module="services.gateway",
    ),
}


def main() -> None:
    """Run the subcommand in `sys.argv`; exit with its status, or 2 if it cannot be run.

    A reader such as `head` may close the output early. The exit status is then that of a program
    ended by SIGPIPE, which Python ignores.
    """
    try:
        try:
            run()
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        # Commands handle Ctrl-C in their work; this one came during their imports.
        print(f"{Path(sys.argv[0]).name}: stopped", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        output = sys.stdout.fileno()
        poll = select.poll()
        poll.register(output, 0)
        if not poll.poll(0):
            raise  # another pipe
        # The interpreter flushes the output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output)
        sys.exit(128 + signal.SIGPIPE)


def run() -> None:
    """Run the subcommand, or print the usage."""
    words = sys.argv[1:]
    if not words or words[0] in HELP:
        print(usage(COMMANDS))
        return
    name, rest = split(words)
    if name not in COMMANDS:
        parts = [command for command in COMMANDS if command.startswith(f"{name} ")]
        if parts and (not rest or rest[0] in HELP):
            print(usage(parts))
            return
        two, first_words = " ".join(words[:2]), {command.split()[0] for command in COMMANDS}
        if meant := get_close_matches(two, COMMANDS, 1, LEAST_ALIKE):
            typed, hint = two, f"; did you mean {meant[0]}?"
        elif parts:
            typed, hint = two, f"; its commands are: {', '.join(parts)}"
        elif meant := get_close_matches(name, first_words, 1):
            typed, hint = name, f"; did you mean {meant[0]}?"
        else:
            typed, hint = name, " (thumbwheel --help lists all)"
        print(f"thumbwheel: {typed!r} is not a command{hint}", file=sys.stderr)
        sys.exit(USAGE_ERROR)
    command = COMMANDS[name]
    is_help = not {"-h", "--help"}.isdisjoint(rest)
    obstacle = missing(command)
    if obstacle and not is_help:
        refuse(name, obstacle)
    if command.is_slow and not is_help:
        print(f"thumbwheel {name}: loading", file=sys.stderr, flush=True)
    sys.argv = [f"thumbwheel {name}", *command.words, *rest]
    try:
        runpy.run_module(command.module_here(), run_name="__main__")
    except ImportError:
        # Modules of commands describe their options without the packages of their groups.
        if not obstacle:
            raise
        refuse(name, obstacle)


def refuse(name: str, obstacle: str) -> NoReturn:
    """Print why a command cannot run, and exit."""
    print(f"thumbwheel {name}: {obstacle}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def usage(names: Collection[str]) -> str:
    """List the named commands by section with their summaries."""
    width = max(map(len, names))
    lines: list[str] = []
    for title, words in SECTIONS.items():
        listed = [name for name in names if name.split()[0] in words]
        if listed:
            lines += ["", f"{title}:"]
            lines += [f"  {name:<{width}}  {COMMANDS[name].summary}" for name in listed]
    return "\n".join(
        ("usage: thumbwheel COMMAND …", *lines, "", "thumbwheel COMMAND --help shows options.")
    )


def split(words: Sequence[str]) -> tuple[str, list[str]]:
    """Split arguments into the name of the command, of one or two words, and the rest."""
    two = " ".join(words[:2])
    return (two, [*words[2:]]) if two in COMMANDS else (words[0], [*words[1:]])


def missing(command: Command) -> str:
    """Describe what has to be installed before the command can run; empty if nothing."""
    module = command.module_here()
    if not (ROOT / Path(*module.split(".")) / "__main__.py").is_file():
        return f"{module} is not part of this image; run the command in a clone"
    absent = [group for group in command.groups if not importlib.util.find_spec(PROBES[group])]
    if not absent:
        return ""
    groups = ", ".join(absent)
    if (ROOT / "infra" / "install").is_dir():
        install = f"python3 infra/install/environment.py {' '.join(absent)}"
        return f"dependencies are not installed ({groups}); run {install}"
    return f"dependencies are not installed ({groups}); use the image thumbwheel-{absent[0]}"


if __name__ == "__main__":
    main()
