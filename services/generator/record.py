"""The rollout as JSON: what the file and the database hold."""

import json
from dataclasses import asdict
from typing import Any

from services.generator.rollout import Candidate, Change, ChangeKind, Deployment, Rollout

FORMAT = 1


class NotARolloutError(Exception):
    """The text is not a rollout of our format."""


def encode(rollout: Rollout) -> str:
    """As text."""
    return json.dumps({"format": FORMAT, **asdict(rollout)}, indent=2)


def decode(text: str | bytes) -> Rollout:
    """From text. Raises: NotARolloutError."""
    try:
        return _rollout_from(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise NotARolloutError(f"not a rollout of format {FORMAT}: {error!r}") from error


def _rollout_from(content: Any) -> Rollout:
    if content["format"] != FORMAT:
        raise ValueError("another format")
    stable, candidate = content["stable"], content["candidate"]
    return Rollout(
        stable=Deployment(**stable) if stable else None,
        candidate=Candidate(**candidate) if candidate else None,
        retired=tuple(content["retired"]),
        history=tuple(
            Change(entry["time_us"], ChangeKind(entry["kind"]), entry["version"], entry["reason"])
            for entry in content["history"]
        ),
    )
