"""Terminal output of the supervisor: a line per message, coloured by service."""

import os
import sys

# Source name of the supervisor's own lines.
SUPERVISOR = "thumbwheel"
COLOURS = {
    "gateway": 36,
    "guardrail": 33,
    "enhancer": 35,
    "session": 34,
    "generator": 32,
    "feedback": 31,
    "predictor": 92,
    "loop": 95,
}


class Terminal:
    """Writer of whole lines to standard output.

    Args:
        with_children: True to print the output of the programs as well.
    """

    def __init__(self, with_children: bool = True) -> None:
        self._with_children = with_children
        self._coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def say(self, source: str, text: str) -> None:
        """Print a line. Services print their own time and name; supervisor lines get an arrow."""
        if source != SUPERVISOR and not self._with_children:
            return
        if source == SUPERVISOR:
            text = f"\033[1m==> {text}\033[0m" if self._coloured else f"==> {text}"
        elif self._coloured and (colour := COLOURS.get(source.split("-")[0])):
            text = f"\033[{colour}m{text}\033[0m"
        print(text, flush=True)
