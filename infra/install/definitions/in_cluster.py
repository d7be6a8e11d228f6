"""Installation of resource definitions into a running cluster.

The API server then accepts the resources and validates their fields.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.machine.cluster.errors import ClusterError
from infra.run.deploy.cluster_shell import ClusterShell

ESTABLISHED_SECONDS, POLL_SECONDS = 60, 0.3


def apply_definitions(shell: ClusterShell, *folders: Path) -> None:
    """Apply all definitions of the folders, and wait until the API server serves them.

    Other versions of a definition are replaced.

    Raises:
        ClusterError: the API server rejects a definition or does not serve the definition in time.
    """
    files = [word for folder in folders for word in ("-f", str(folder))]
    # Server-side apply: the definitions exceed the size limit of the annotation written by kubectl.
    shell.run("kubectl", "apply", "--server-side", "--force-conflicts", *files)
    end = time.monotonic() + ESTABLISHED_SECONDS
    while not all(
        is_served(each)
        for each in json.loads(shell.run("kubectl", "get", *files, "-o", "json"))["items"]
    ):
        if time.monotonic() > end:
            names = ", ".join(folder.name for folder in folders)
            raise ClusterError(
                f"the API server does not serve {names}",
                field=names,
                reason="TIMED_OUT",
                limit=f"{ESTABLISHED_SECONDS} s",
            )
        time.sleep(POLL_SECONDS)


def is_served(definition: Mapping[str, Any]) -> bool:
    """Return True if the definition is established.

    A new definition has no conditions yet, and `kubectl wait` fails in that case.
    """
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
