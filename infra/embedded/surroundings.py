"""What a command that works beside a running system must know besides its ports: where keys are
made, what training's process needs.

Whoever starts a system with stores of its own leaves a note in the state folder; without one the
embedded stores are meant.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

NOTE = "surroundings.json"


@dataclass(frozen=True)
class Surroundings:
    """`keys_database`: SQLAlchemy URL of the gateway's database. `loop_environment`: variables of
    training's process.
    """

    keys_database: str
    loop_environment: Mapping[str, str] = field(default_factory=dict)


def write_surroundings(state: Path, surroundings: Surroundings) -> None:
    """Leave the note, readable by its owner alone: it holds passwords."""
    file = state / NOTE
    file.touch(mode=0o600)
    file.write_text(json.dumps(asdict(surroundings), indent=2))


def read_surroundings(state: Path) -> Surroundings:
    """The note, or what is so in an embedded run."""
    file = state / NOTE
    if not file.exists():
        return Surroundings(f"sqlite+aiosqlite:///{state / 'keys.db'}")
    return Surroundings(**json.loads(file.read_text()))


def loop_environment(state: Path) -> dict[str, str]:
    """The whole environment of training's process for the system of a state folder.

    OpenMP's waiting threads must not burn the core that a chat wants; that is read before torch is
    imported.
    """
    return {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **read_surroundings(state).loop_environment}
