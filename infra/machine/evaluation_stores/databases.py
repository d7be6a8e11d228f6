"""Create the role and databases of Postgres before any client connects.

Statements run in single-user mode, which needs no client. The password is set at every start, so
that a changed secret takes effect.
"""

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from infra.machine.servers.errors import ServerError
from infra.machine.servers.postgres import USER, Postgres, not_as_root
from infra.machine.servers.steps import MAX_OUTPUT_CHARACTERS, STEP_SECONDS


def ensure_databases(binaries: Path, postgres: Postgres, databases: Sequence[str]) -> None:
    """Set the password and create missing databases.

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
