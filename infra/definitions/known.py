"""Definitions put into a running cluster, so that its API server takes those resources and knows each of their fields."""

from pathlib import Path

from infra.deploy.inside import Inside

ESTABLISHED_SECONDS = 60


def make_known(inside: Inside, *folders: Path) -> None:
    """By what lies in the folders; returns when the API server serves it. Another version takes the place of one that is known.

    Raises:
        ClusterError: the API server refuses it.
    """
    files = [word for folder in folders for word in ("-f", str(folder))]
    # Server-side: they are larger than what kubectl could note in an annotation.
    inside.run("kubectl", "apply", "--server-side", "--force-conflicts", *files)
    inside.run("kubectl", "wait", "--for=condition=Established", f"--timeout={ESTABLISHED_SECONDS}s", *files)
