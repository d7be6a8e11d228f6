"""The rollout on disk: one JSON file, replaced whole, synced before anybody acts on it."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from services.generator.rollout import Candidate, Change, ChangeKind, Deployment, Rollout

FORMAT = 1


class RolloutFileError(Exception):
    """The file cannot be understood; the text says where it is. It is never overwritten by a fresh start."""


class RolloutFile:
    """Reads and replaces the file. Blocking: call it off the loop."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Rollout | None:
        """The stored rollout; None if there never was one. Raises: RolloutFileError."""
        try:
            content = json.loads(self._path.read_bytes())
            return _rollout_from(content)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise RolloutFileError(f"{self._path} is not a rollout of format {FORMAT}: {error!r}") from error

    def save(self, rollout: Rollout) -> None:
        """Replace the file; after a crash it is the old one or the new one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._path.with_suffix(".new")
        with fresh.open("w") as file:
            json.dump({"format": FORMAT, **asdict(rollout)}, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


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
