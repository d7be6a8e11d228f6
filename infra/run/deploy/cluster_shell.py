"""Shell commands in the namespaces of the cluster, with Helm and kubectl."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from infra.machine.cluster import lifecycle
from infra.machine.cluster.errors import ClusterError
from infra.machine.cluster.installation import Tools
from infra.machine.cluster.layout import Layout

MAX_OUTPUT_CHARACTERS = 3_000


@dataclass(frozen=True)
class ClusterShell:
    """Runner of commands in a running cluster."""

    layout: Layout
    tools: Tools

    def run(self, *command: str, stdin: str = "", seconds: float = 600.0) -> str:
        """Run a command and return its standard output.

        Args:
            stdin: text for the standard input.

        Raises:
            ClusterError: the command failed; the message contains the end of its output.
        """
        done = subprocess.run(
            self.command(command),
            env=lifecycle.user_environment(self.layout, self.tools),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        if done.returncode:
            words = (done.stdout + done.stderr)[-MAX_OUTPUT_CHARACTERS:].strip()
            raise ClusterError(
                f"{' '.join(command[:4])} failed with {done.returncode}: {words}",
                field=command[0],
                reason="FAILED",
            )
        return done.stdout

    def command(self, command: Sequence[str]) -> list[str]:
        """Return the arguments that run a command in the namespaces of the cluster.

        Raises:
            ClusterError: no cluster is running.
        """
        return lifecycle.in_namespaces(lifecycle.require_running(self.layout), command)
