"""The manifest of a model directory, as far as the rollout needs it.

The training pipeline writes manifest.json last, so the file marks a finished model. The manifest
contains the name of the version.
"""

import json
from pathlib import Path

from services.chassis.errors import DetailedError

MANIFEST = "manifest.json"


class ManifestError(DetailedError):
    """The directory is not a finished model directory; `field` is the manifest or its key."""

    reason = "MISSING"


def manifest_version(directory: Path) -> str:
    """Return the version named in the manifest. Blocking.

    Raises:
        ManifestError: the manifest is missing, unreadable, or has no version.
    """
    try:
        content = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"the directory has no readable {MANIFEST}",
            field=str(directory / MANIFEST),
            reason="MISSING" if isinstance(error, OSError) else "MALFORMED",
        ) from error
    version = content.get("version") if isinstance(content, dict) else None
    if not isinstance(version, str) or not version:
        raise ManifestError(f"{MANIFEST} names no version", field="version")
    return version
