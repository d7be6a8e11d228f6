"""JSON text of a rollout, in the file and in the database."""

import json
from dataclasses import asdict
from typing import Any

from services.generator.rollout.rollout import (
    Candidate,
    Change,
    ChangeKind,
    Deployment,
    Halt,
    Rollout,
    Watch,
)

# Earlier releases ignore unknown keys in format 1 and would remove a halt or a watch with their
# next change, so such a rollout has a format that they refuse.
FORMAT, HALTED_FORMAT, WATCHED_FORMAT = 1, 2, 3
# Earlier releases refuse unknown kinds in the history, which outlasts a watch. They read the
# nearest kind that they know; the kind itself is in a key that they ignore.
EARLIER_KINDS = {
    ChangeKind.WATCH_ROLLED_BACK: ChangeKind.ROLLED_BACK,
    ChangeKind.WATCH_ENDED: ChangeKind.PROMOTED,
}


class InvalidRolloutError(Exception):
    """The text is not a rollout of the supported format."""


def encode(rollout: Rollout) -> str:
    """Return the rollout as JSON text."""
    number = FORMAT if rollout.halt is None else HALTED_FORMAT
    if rollout.watch is not None:
        number = WATCHED_FORMAT
    history = [
        {**asdict(change), "kind": EARLIER_KINDS[change.kind], "watch_kind": change.kind}
        if change.kind in EARLIER_KINDS
        else asdict(change)
        for change in rollout.history
    ]
    return json.dumps({"format": number, **asdict(rollout), "history": history}, indent=2)


def decode(text: str | bytes) -> Rollout:
    """Parse the JSON text of a rollout.

    Raises:
        InvalidRolloutError: the text is not JSON, or has another format.
    """
    try:
        content: Any = json.loads(text)
        if content["format"] not in (FORMAT, HALTED_FORMAT, WATCHED_FORMAT):
            raise ValueError("another format")
        stable, candidate = content["stable"], content["candidate"]
        history = tuple(
            Change(
                entry["time_us"],
                ChangeKind(entry.get("watch_kind", entry["kind"])),
                entry["version"],
                entry["reason"],
            )
            for entry in content["history"]
        )
        # Absent in rollouts of earlier versions.
        halt, watch = content.get("halt"), content.get("watch")
        return Rollout(
            stable=Deployment(**stable) if stable else None,
            candidate=Candidate(**candidate) if candidate else None,
            retired=tuple(content["retired"]),
            history=history,
            halt=Halt(**halt) if halt else None,
            watch=Watch(**{**watch, "previous": Deployment(**watch["previous"])})
            if watch
            else None,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRolloutError(
            f"not a rollout of format {FORMAT} to {WATCHED_FORMAT}: {error!r}"
        ) from error
