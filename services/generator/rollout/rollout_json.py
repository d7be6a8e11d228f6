"""JSON format of the rollout in the file and in the database."""

import json
from dataclasses import asdict
from typing import Any

from services.generator.rollout.rollout import Candidate, Change, ChangeKind, Deployment, Rollout

FORMAT = 1


class InvalidRolloutError(Exception):
    """The text is not a rollout of the supported format."""


def encode(rollout: Rollout) -> str:
    """Return the rollout as JSON text."""
    return json.dumps({"format": FORMAT, **asdict(rollout)}, indent=2)


def decode(text: str | bytes) -> Rollout:
    """Parse the JSON text of a rollout.

    Raises:
        InvalidRolloutError: the text is not JSON, or has another format.
    """
    try:
        content: Any = json.loads(text)
        if content["format"] != FORMAT:
            raise ValueError("another format")
        stable, candidate = content["stable"], content["candidate"]
        history = tuple(
            Change(entry["time_us"], ChangeKind(entry["kind"]), entry["version"], entry["reason"])
            for entry in content["history"]
        )
        return Rollout(
            stable=Deployment(**stable) if stable else None,
            candidate=Candidate(**candidate) if candidate else None,
            retired=tuple(content["retired"]),
            history=history,
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRolloutError(f"not a rollout of format {FORMAT}: {error!r}") from error
