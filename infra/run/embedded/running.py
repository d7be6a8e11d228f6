"""Preconditions of the commands: a running or absent system and a known recipe.

All checks precede any installation or write.
"""

from collections.abc import Mapping
from pathlib import Path

from infra.run.embedded.layout import ROOT, Layout
from infra.run.supervision.supervisor import (
    AlreadyRunningError,
    NotRunningError,
    find_running,
    read_ports,
)
from training.errors import DetailedError

RECIPES = ("nano", "small")
STACK_STATE = ROOT / ".state" / "stack"


class UnknownRecipeError(DetailedError):
    """RECIPE= is not a known recipe."""

    reason = "UNKNOWN"


def check_recipe(name: str) -> None:
    """Check the name of a recipe.

    Raises:
        UnknownRecipeError: the recipe does not exist.
    """
    if name not in RECIPES:
        raise UnknownRecipeError(
            f"RECIPE={name}: choose {' or '.join(RECIPES)}",
            field="RECIPE",
            limit=", ".join(RECIPES),
        )


def check_not_running(state: Path) -> None:
    """Check that no system is running in the state folder.

    Raises:
        AlreadyRunningError: a system is running; the message contains its URL.
    """
    if running := find_running(state):
        url = Layout(state, running.ports).page_url
        raise AlreadyRunningError(
            f"Thumbwheel is already running (process {running.pid}); chat at {url}",
            field=str(state),
        )


def find_ports(state: Path) -> Mapping[str, int]:
    """Return the ports of the system for a run of the loop.

    Raises:
        NotRunningError: no system is running in the folder; if the stack is running, the message
            contains the command for the stack.
    """
    try:
        return read_ports(state)
    except NotRunningError as error:
        if find_running(STACK_STATE) is None:
            raise
        stack = STACK_STATE.relative_to(ROOT)
        raise NotRunningError(
            f"{error}; the stack is running: make loop STATE={stack}",
            field=error.field,
            limit=str(stack),
        ) from error
