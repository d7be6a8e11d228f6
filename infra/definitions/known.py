"""Definitions put into a running cluster, so that its API server takes those resources and knows each of their fields."""

import time
from pathlib import Path

from infra.cluster.errors import ClusterError
from infra.deploy.inside import Inside

ESTABLISHED_SECONDS, LOOK_SECONDS = 60, 0.3
# `kubectl wait` gives up at once on one that is so new that it has no conditions.
STANDING = 'custom-columns=ESTABLISHED:.status.conditions[?(@.type=="Established")].status'


def make_known(inside: Inside, *folders: Path) -> None:
    """By what lies in the folders; returns when the API server serves it. Another version takes the place of one that is known.

    Raises:
        ClusterError: the API server refuses it, or does not serve it in time.
    """
    files = [word for folder in folders for word in ("-f", str(folder))]
    # Server-side: they are larger than what kubectl could note in an annotation.
    inside.run("kubectl", "apply", "--server-side", "--force-conflicts", *files)
    end = time.monotonic() + ESTABLISHED_SECONDS
    while set(inside.run("kubectl", "get", *files, "--no-headers", "-o", STANDING).split()) != {"True"}:
        if time.monotonic() > end:
            raise ClusterError(f"the API server does not serve {', '.join(folder.name for folder in folders)}")
        time.sleep(LOOK_SECONDS)
