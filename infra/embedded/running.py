"""What must be so before a command begins: that no system runs in the folder yet, or that one does,
and that the recipe is known.

All of it is asked before anything is installed or written.
"""

from collections.abc import Mapping
from pathlib import Path

from infra.embedded.layout import ROOT, Layout
from infra.supervision.supervisor import (
    AlreadyRunningError,
    NotRunningError,
    find_running,
    read_ports,
)
from training.errors import DetailedError

RECIPES = ("nano", "small")
STACK_STATE = ROOT / ".state" / "stack"


class UnknownRecipeError(DetailedError):
    """RECIPE= names none."""

    reason = "UNKNOWN"


def check_recipe(name: str) -> None:
    """Raises: UnknownRecipeError."""
    if name not in RECIPES:
        raise UnknownRecipeError(
            f"RECIPE={name}: choose {' or '.join(RECIPES)}",
            field="RECIPE",
            limit=", ".join(RECIPES),
        )


def refuse_second(state: Path) -> None:
    """Raises: AlreadyRunningError, which says where to chat."""
    if running := find_running(state):
        url = Layout(state, running.ports).page_url
        raise AlreadyRunningError(
            f"Thumbwheel runs already (process {running.pid}): chat at {url}", field=str(state)
        )


def find_ports(state: Path) -> Mapping[str, int]:
    """Ports of the system that a turn of the loop is for.

    Raises:
        NotRunningError: none runs there; if the stack runs instead, how to say that it is meant.
    """
    try:
        return read_ports(state)
    except NotRunningError as error:
        if find_running(STACK_STATE) is None:
            raise
        stack = STACK_STATE.relative_to(ROOT)
        raise NotRunningError(
            f"{error}; what runs is the stack: make loop STATE={stack}",
            field=error.field,
            limit=str(stack),
        ) from error
