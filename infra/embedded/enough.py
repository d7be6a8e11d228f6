"""Whether enough was said for a turn of the loop, asked before the packages of training are
installed for one that would end at once.

The service's count knows of no consent and no pairs, so it is never too low: what it lets through,
the turn itself may still refuse.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import grpc
from thumbwheel.feedback.v1 import feedback_pb2, feedback_pb2_grpc

from training.errors import DetailedError
from training.progress import Lines, ProgressReporter
from training.registry import Registry
from training.runs import Runs, exclusive
from training.status import read_status

# As the recipes have them, whose modules import torch.
NEEDED_THUMBS: Mapping[str, int] = MappingProxyType({"nano": 200, "small": 100})
CALL_SECONDS = 20.0


class SilentFeedbackError(DetailedError):
    """The feedback service does not say how many thumbs stand; the text says why."""

    reason = "UNREACHABLE"


def too_little(recipe: str, state: Path, feedback: str) -> bool:
    """Whether a new turn would have too little; said here, and left for the page as a turn leaves
    it. One that was cut off goes on with what it had.

    Args:
        feedback: host:port of the service.

    Raises:
        LoopRunningError: a turn is under way.
        SilentFeedbackError: nobody knows.
    """
    runs, needed = Runs(state / "loop"), NEEDED_THUMBS[recipe]
    if runs.unfinished(recipe) is not None or (thumbs := standing_thumbs(feedback)) >= needed:
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
            "not_enough_feedback", f"not enough feedback: {thumbs} thumbs, {needed} needed", None
        )
    return True


def standing_thumbs(feedback: str) -> int:
    """Of everybody, on all versions. Raises: SilentFeedbackError."""
    with grpc.insecure_channel(feedback) as channel:
        # The generated types know grpc.aio alone.
        stub: Any = feedback_pb2_grpc.FeedbackLogServiceStub(channel)  # type: ignore[arg-type]
        try:
            reply = stub.CountThumbs(
                feedback_pb2.CountThumbsRequest(), timeout=CALL_SECONDS, wait_for_ready=True
            )
        except grpc.RpcError as error:
            raise SilentFeedbackError(
                f"feedback service at {feedback}: {error.code().name}", field=feedback
            ) from error
    return sum(count.up + count.down for count in reply.counts)
