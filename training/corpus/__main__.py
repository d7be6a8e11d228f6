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
from training.runtime.paths import describe_os_error

COMMANDS: dict[str, str] = {
    "crawl": "training.corpus.crawl.command",
    "build": "training.data_path.build_command",
    "why": "training.data_path.why_command",
    "remove": "training.data_path.remove_command",
    "chat": "training.corpus.chat",
    "pii": "training.corpus.pii.command",
    "tokenizers": "training.corpus.tokenizers",
    "items": "training.evaluation_items",
}
INTERRUPTED = 130


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
    except OSError as error:
        if error.filename is None:
            raise  # an error of the code, not of a file
        out = [options.out] if getattr(options, "out", None) else []
        print(f"thumbwheel data {given[0]}: {describe_os_error(error, out)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
