"""Preparation of each store before its start.

The code is shared with the servers on loopback. Passwords come from the mounted secret.
"""

import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from infra.machine.evaluation_stores.layout import StoreLayout
from infra.machine.servers.errors import ServerError
from infra.machine.servers.kafka import Java, Kafka
from infra.machine.servers.postgres import USER, Postgres, not_as_root
from infra.machine.servers.seaweedfs import SeaweedFS
from infra.machine.servers.steps import MAX_OUTPUT_CHARACTERS, STEP_SECONDS
from infra.machine.servers.valkey import Valkey
from infra.run.supervision.child import Program
from infra.service_table import service_table

# Use the class data archive that is shipped with Java: the archive from infra/machine/servers
# matches only the jars from which the archive was dumped.
CLASS_DATA = "-Xshare:auto"


def prepare_postgres(layout: StoreLayout) -> Program:
    """Initialise a new folder, and create the role and databases."""
    layout.copy_secret("postgres-password", "password")
    postgres = Postgres(layout.folder, layout.ports["postgres"][0], layout.listens_on)
    binaries = layout.software.programs.postgres
    (program,) = postgres.prepare(binaries)
    ensure_databases(binaries, postgres, service_table().databases)
    return program


def prepare_kafka(layout: StoreLayout) -> Program:
    """Format a new folder for the broker."""
    kafka = Kafka(layout.folder, layout.ports["kafka"], layout.listens_on, layout.known_as)
    (program,) = kafka.prepare(Java(layout.software.programs.jvm, layout.software.jars, CLASS_DATA))
    return program


def prepare_s3(layout: StoreLayout) -> Program:
    """Write the S3 credentials. The access key is constant."""
    layout.copy_secret("secret-key", "secret.key")
    (program,) = SeaweedFS(layout.folder, layout.ports["s3"], layout.listens_on).prepare(
        layout.software.programs.weed
    )
    return program


def prepare_valkey(layout: StoreLayout) -> Program:
    """Write the configuration of Valkey."""
    layout.copy_secret("valkey-password", "password")
    valkey = Valkey(layout.folder, layout.ports["valkey"][0], layout.listens_on)
    (program,) = valkey.prepare(layout.software.programs.valkey)
    return program


PREPARE: Mapping[str, Callable[[StoreLayout], Program]] = {
    "postgres": prepare_postgres,
    "kafka": prepare_kafka,
    "s3": prepare_s3,
    "valkey": prepare_valkey,
}


def ensure_databases(binaries: Path, postgres: Postgres, databases: Sequence[str]) -> None:
    """Set the password and create missing databases before any client connects.

    Statements run in single-user mode, which needs no client. The password is set at every start,
    so that a changed secret takes effect.

    Raises:
        ServerError: Postgres rejected a statement; the message contains the end of its output.
    """
    data = postgres.folder / "data"
    data.chmod(
        0o700
    )  # Kubernetes may open a remounted volume to a group, and Postgres refuses such a folder.
    password = postgres.password.replace("'", "''")
    output = _run_single_user(
        binaries,
        data,
        [f"ALTER ROLE {USER} PASSWORD '{password}'", "SELECT datname FROM pg_database"],
    )
    existing = set(re.findall(r'datname = "([^"]+)"', output))
    if missing := [name for name in databases if name not in existing]:
        _run_single_user(binaries, data, [f'CREATE DATABASE "{name}"' for name in missing])


def _run_single_user(binaries: Path, data: Path, statements: Sequence[str]) -> str:
    """Run SQL statements in single-user mode, a statement per line.

    The statements are passed on standard input, because other users can read arguments.
    """
    command = [
        str(binaries / "postgres"),
        "--single",
        "-D",
        str(data),
        "-c",
        "exit_on_error=on",
        "postgres",
    ]
    done = subprocess.run(
        not_as_root(command),
        input="".join(f"{statement}\n" for statement in statements),
        capture_output=True,
        text=True,
        check=False,
        timeout=STEP_SECONDS,
    )
    if done.returncode:
        raise ServerError(
            f"Postgres in single-user mode failed: {done.stderr.strip()[-MAX_OUTPUT_CHARACTERS:]}",
            field="postgres",
            reason="FAILED",
        )
    return done.stdout
