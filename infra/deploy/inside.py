"""Commands in the cluster's namespaces, with Helm and kubectl: one way for all steps."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from infra.cluster import lifecycle
from infra.cluster.errors import ClusterError
from infra.cluster.installation import Tools
from infra.cluster.layout import Layout

LAST_CHARACTERS = 3_000


@dataclass(frozen=True)
class Inside:
    """One running cluster."""

    layout: Layout
    tools: Tools

    def run(self, *command: str, said: str = "", seconds: float = 600.0) -> str:
        """What the command printed; `said` is its standard input.

        Raises:
            ClusterError: it failed, with its last words.
        """
        done = subprocess.run(
            self.command(command),
            env=lifecycle.user_environment(self.layout, self.tools),
            input=said,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        if done.returncode:
            words = (done.stdout + done.stderr)[-LAST_CHARACTERS:].strip()
            raise ClusterError(
                f"{' '.join(command[:4])} failed with {done.returncode}: {words}",
                field=command[0],
                reason="FAILED",
            )
        return done.stdout

    def command(self, command: Sequence[str]) -> list[str]:
        """The same command, for whoever runs it in another way. Raises: ClusterError: no cluster
        runs.
        """
        return lifecycle.entered(lifecycle.running(self.layout), command)
