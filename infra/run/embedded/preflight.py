"""Preconditions of the commands: a running or absent system, a known recipe, enough feedback.

All checks precede any installation or write. The count of thumbs of the feedback service ignores
consent and pairs, so the count is never too low; the run itself may still refuse.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

from infra.run.embedded.base_model import read_base, require_own_model
from infra.run.embedded.layout import ROOT, Layout
from infra.run.supervision.supervisor import (
    AlreadyRunningError,
    NotRunningError,
    find_running,
    read_ports,
)
from training.artifacts.registry import Registry
from training.errors import DetailedError
from training.recipes.names import check_model_size
from training.reporting.progress import Lines, ProgressReporter
from training.runs import Runs, exclusive, read_status
from training.service_identity import OPERATOR, ServiceIdentity, identity_in

RECIPES = ("nano", "small", "auto")
DEFAULT_RECIPE = "small"  # of the default model
ANY_MODEL = "auto"
STACK_STATE = ROOT / ".state" / "stack"


class UnknownRecipeError(DetailedError):
    """RECIPE= is not a known recipe."""

    reason = "UNKNOWN"


def choose_recipe(recipe: str, model: str) -> str:
    """Return the recipe of a demonstration: the given one, or that of its model.

    Args:
        recipe, model: "" if the caller named none.

    Raises:
        UnknownRecipeError: the recipe does not exist.
    """
    if not recipe:
        recipe = model if model in RECIPES else ANY_MODEL if model else DEFAULT_RECIPE
    check_recipe(recipe)
    return recipe


def check_recipe(name: str) -> None:
    """Check the name of a recipe.

    Raises:
        UnknownRecipeError: the recipe does not exist.
    """
    if name not in RECIPES:
        raise UnknownRecipeError(
            f"RECIPE={name}: choose one of {', '.join(RECIPES)}",
            field="RECIPE",
            limit=", ".join(RECIPES),
        )


def select_recipe(given: str, state: Path) -> str:
    """Return the given recipe, or the recipe of the state folder's base model.

    The base version of a recipe is named `RECIPE-0`. `auto` trains all other models.

    Args:
        given: "" if the caller named no recipe.

    Raises:
        NothingToTrainError: an external model answers.
        ConfigError: the recipe cannot train the base model.
    """
    require_own_model(state)
    base = read_base(state)
    if given:
        if base:
            check_model_size(given, Layout(state, {}).models / base)
        return given
    if base is None:
        return DEFAULT_RECIPE
    recipe, _, number = base.rpartition("-")
    return recipe if number == "0" and recipe in RECIPES else ANY_MODEL


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


# Copied from the recipes, because their modules import torch.
NEEDED_THUMBS: Mapping[str, int] = MappingProxyType({"nano": 200, "small": 100, "auto": 100})
CALL_SECONDS = 20.0
COUNT_THUMBS = "/thumbwheel.feedback.v1.FeedbackLogService/CountThumbs"


class FeedbackUnreachableError(DetailedError):
    """The feedback service did not return the number of thumbs."""

    reason = "UNREACHABLE"


def has_too_little_feedback(recipe: str, state: Path, feedback: str) -> bool:
    """Return True if a new run would have too little feedback.

    The result is printed and recorded in the status for the page, as a run would do. An interrupted
    run continues with its own snapshot and needs no check.

    Args:
        feedback: host:port of the feedback service.

    Raises:
        LoopRunningError: a run is in progress.
        FeedbackUnreachableError: the feedback service did not respond.
    """
    runs, needed = Runs(state / "loop"), NEEDED_THUMBS[recipe]
    if runs.unfinished(recipe) is not None:
        return False
    if (thumbs := count_thumbs(feedback, identity_in(state, OPERATOR))) >= needed:
        return False
    with exclusive(state / "loop", f"recipe {recipe}"):
        before, last = read_status(state / "loop"), runs.last(recipe)
        version = Registry(state / "models").next_version(recipe, runs.names())
        reporter = ProgressReporter(
            state / "loop", Lines(sys.stdout), version, recipe, ("snapshot",)
        )
        reporter.note_erased(before.erased_versions if before else [])
        reporter.note_thumbs(needed, last.started if last else "")
        reporter.finish(
            "not_enough_feedback", f"not enough feedback: {thumbs} of {needed} thumbs", None
        )
    return True


def count_thumbs(feedback: str, identity: ServiceIdentity | None = None) -> int:
    """Return the number of current thumbs of all users on all versions.

    Args:
        identity: signs the call; None where the services require no token.

    Raises:
        FeedbackUnreachableError: the feedback service did not respond.
    """
    with grpc.insecure_channel(feedback) as channel:
        # The generated types support grpc.aio only.
        stub: Any = feedback_pb2_grpc.FeedbackLogServiceStub(channel)  # type: ignore[arg-type]
        try:
            reply = stub.CountThumbs(
                feedback_pb2.CountThumbsRequest(),
                timeout=CALL_SECONDS,
                wait_for_ready=True,
                metadata=[identity.metadata(COUNT_THUMBS)] if identity else [],
            )
        except grpc.RpcError as error:
            raise FeedbackUnreachableError(
                f"feedback service at {feedback}: {error.code().name}", field=feedback
            ) from error
    return sum(count.up + count.down for count in reply.counts)
