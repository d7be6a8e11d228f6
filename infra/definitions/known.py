"""Definitions put into a running cluster, so that its API server takes those resources and knows
each of their fields.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.cluster.errors import ClusterError
from infra.deploy.inside import Inside

ESTABLISHED_SECONDS, LOOK_SECONDS = 60, 0.3


def make_known(inside: Inside, *folders: Path) -> None:
    """By what lies in the folders; returns when the API server serves it. Another version takes the
    place of one that is known.

    Raises:
        ClusterError: the API server refuses it, or does not serve it in time.
    """
    files = [word for folder in folders for word in ("-f", str(folder))]
    # Server-side: they are larger than what kubectl could note in an annotation.
    inside.run("kubectl", "apply", "--server-side", "--force-conflicts", *files)
    end = time.monotonic() + ESTABLISHED_SECONDS
    while not all(
        is_served(each)
        for each in json.loads(inside.run("kubectl", "get", *files, "-o", "json"))["items"]
    ):
        if time.monotonic() > end:
            names = ", ".join(folder.name for folder in folders)
            raise ClusterError(
                f"the API server does not serve {names}",
                field=names,
                reason="TIMED_OUT",
                limit=f"{ESTABLISHED_SECONDS} s",
            )
        time.sleep(LOOK_SECONDS)


def is_served(definition: Mapping[str, Any]) -> bool:
    """One that is new has no conditions yet, on which `kubectl wait` gives up."""
    conditions = definition.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)
