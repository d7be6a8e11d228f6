"""Terminal output of the supervisor: a line per message, coloured by service."""

import os
import sys
from functools import cache

from infra.service_table import service_table

# Source name of the supervisor's own lines.
SUPERVISOR = "thumbwheel"
LOOP_COLOUR = 95
# SGR codes of the services by their position in the service table.
PALETTE = (36, 33, 35, 34, 32, 31, 92, 93, 94, 96, 91)


@cache
def colours() -> dict[str, int]:
    """Return the SGR code of each source."""
    names = service_table().names
    found = {name: PALETTE[number % len(PALETTE)] for number, name in enumerate(names)}
    return {**found, "loop": LOOP_COLOUR}


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
        elif self._coloured and (colour := colours().get(source.split("-")[0])):
            text = f"\033[{colour}m{text}\033[0m"
        print(text, flush=True)
