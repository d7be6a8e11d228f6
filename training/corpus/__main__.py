"""`python -m training.corpus COMMAND`: the commands of `thumbwheel data`.

A command is a module with `SUMMARY`, `add_arguments(parser)` and `run(options)`, which returns the
exit status. Only the module of the given command is imported.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from training.errors import DetailedError

COMMANDS: dict[str, str] = {
    "chat": "training.corpus.chat",
    "items": "training.evaluation_items",
    "crawl": "training.corpus.crawl.command",
    "pii": "training.corpus.pii.command",
    "tokenizers": "training.corpus.tokenizers",
}


def main(arguments: Sequence[str] = ()) -> int:
    """Run a command; an error of input is printed without a traceback, with status 2."""
    given = list(arguments or sys.argv[1:])
    if not given or given[0] not in COMMANDS:
        names = "\n".join(f"  {name}" for name in COMMANDS)
        print(f"usage: thumbwheel data COMMAND …\n\n{names}", file=sys.stderr)
        return 2
    command = importlib.import_module(COMMANDS[given[0]])
    parser = argparse.ArgumentParser(
        prog=f"thumbwheel data {given[0]}", description=command.SUMMARY
    )
    command.add_arguments(parser)
    options = parser.parse_args(given[1:])
    try:
        return int(command.run(options))
    except DetailedError as error:
        print(f"thumbwheel data {given[0]}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
