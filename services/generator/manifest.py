"""The model directory as far as the rollout cares: manifest.json, written last by whoever made the
model, names the version.
"""

import json
from pathlib import Path

from services.chassis.errors import DetailedError

MANIFEST = "manifest.json"


class NoManifestError(DetailedError):
    """The directory is not a finished model directory; `field` is the manifest, or its key."""

    reason = "MISSING"


def manifest_version(directory: Path) -> str:
    """The version that the manifest names. Blocking.

    Raises:
        NoManifestError: there is none, or it names no version.
    """
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise NoManifestError(
            f"the directory has no readable {MANIFEST}",
            field=str(directory / MANIFEST),
            reason="MISSING" if isinstance(error, OSError) else "MALFORMED",
        ) from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str) or not version:
        raise NoManifestError(f"{MANIFEST} names no version", field="version")
    return version
