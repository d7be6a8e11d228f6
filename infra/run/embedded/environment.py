"""Environment of commands next to a running system: database of API keys, training variables.

A system with other stores writes a file into the state folder. Without the file the embedded stores
are used.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from infra.run.embedded.model_server import training_variables
from infra.service_table import service_table

FILE = "surroundings.json"


@dataclass(frozen=True)
class Environment:
    """Connections of a running system.

    `keys_database` is the SQLAlchemy URL of the gateway's database. `loop_environment` contains
    variables of the training process, `service_environment` those of administrative commands of the
    services.
    """

    keys_database: str
    loop_environment: Mapping[str, str] = field(default_factory=dict)
    service_environment: Mapping[str, str] = field(default_factory=dict)


def write_environment(state: Path, environment: Environment) -> None:
    """Write the file, readable by its owner only, since the file contains passwords."""
    file = state / FILE
    file.touch(mode=0o600)
    file.write_text(json.dumps(asdict(environment), indent=2))


def read_environment(state: Path) -> Environment:
    """Read the file; return the values of an embedded run if missing."""
    file = state / FILE
    if not file.exists():
        rollout_file = str(state / "generator" / "rollout.json")
        stores = {"TW_GENERATOR_ROLLOUT_FILE": rollout_file} | {
            database_variable(service.name): service.database.file_url(state)
            for service in service_table().grpc
            if service.database and service.database.file
        }
        return Environment(f"sqlite+aiosqlite:///{state / 'keys.db'}", service_environment=stores)
    return Environment(**json.loads(file.read_text()))


def database_variable(service: str) -> str:
    """Return the environment variable with the URL of a service's database."""
    return f"TW_{service.upper()}_DATABASE_URL"


def service_environment(state: Path) -> dict[str, str]:
    """Return the whole environment of administrative commands of the services."""
    return {**os.environ, **read_environment(state).service_environment}


def loop_environment(state: Path) -> dict[str, str]:
    """Return the whole environment of the training process for a state folder.

    OMP_WAIT_POLICY keeps idle OpenMP threads from occupying the core that chat needs. OpenMP reads
    the variable before torch is imported.
    """
    return {
        # A variable of the caller goes first.
        **training_variables(state),
        **os.environ,
        "OMP_WAIT_POLICY": "PASSIVE",
        **read_environment(state).loop_environment,
    }
