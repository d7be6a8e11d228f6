"""The model directory as far as the rollout cares: manifest.json, written last by whoever made the model, names the version."""

import json
from pathlib import Path

MANIFEST = "manifest.json"


class NoManifestError(Exception):
    """The directory is not a finished model directory; the text says why."""


def manifest_version(directory: Path) -> str:
    """The version that the manifest names. Blocking.

    Raises:
        NoManifestError: there is none, or it names no version.
    """
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise NoManifestError(f"the directory has no readable {MANIFEST}") from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str) or not version:
        raise NoManifestError(f"{MANIFEST} names no version")
    return version
