"""Versions that are adapters of another version, their base, whose server answers for them.

Training writes base_adapter/ beside the merged weights. vLLM answers with an adapter of other
weights without an error, and with tokenizer and chat template of the base, so all of these are
checked here.
"""

import asyncio
import hashlib
import json
import logging
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.chassis.errors import DetailedError
from services.chassis.telemetry import fields
from services.generator.rollout.canary import MANIFEST, VERSION

log = logging.getLogger(__name__)

FOLDER = "base_adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Files of the base with which its server answers for all adapters.
SHARED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


class UnusableAdapterError(DetailedError):
    """The version is no adapter that the server of its base can answer with."""

    reason = "UNUSABLE_ADAPTER"


@dataclass(frozen=True)
class BaseAdapter:
    """Adapter of a version.

    Args:
        base: version whose weights the adapter changes, and whose server answers.
        model: name for the server: the folder of the adapter, relative to the models' claim.
    """

    base: str
    model: str


class Adapters:
    """Adapters of a release, by version.

    Args:
        models_root: mount point of the models' claim.
        max_rank: highest rank that the servers permit; 0: each version has a server of its own.
    """

    def __init__(self, models_root: Path, max_rank: int) -> None:
        self._root = models_root
        self._max_rank = max_rank
        self.loaded: dict[str, BaseAdapter] = {}

    async def find(self, version: str, folder: str) -> BaseAdapter | None:
        """Return the adapter of a version; None if the version needs a server of its own.

        The reason is logged.
        """
        if not self._max_rank:
            return None
        try:
            return await asyncio.to_thread(read_adapter, self._root, folder, self._max_rank)
        except UnusableAdapterError as error:
            log.info(
                "version gets a server of its own",
                extra=fields(version=version, reason=error.reason, field=error.field),
            )
            return None

    async def bases(self, wanted: Mapping[str, str], complete: Container[str]) -> frozenset[str]:
        """Return the bases of the wanted versions.

        Args:
            wanted: directories by version.
            complete: versions with a server of their own.
        """
        if not self._max_rank:
            return frozenset()
        directories = [wanted[version] for version in wanted if version not in complete]
        named = await asyncio.to_thread(lambda: [_base(Path(found)) for found in directories])
        return frozenset(base for base in named if base)


def read_adapter(models_root: Path, folder: str, max_rank: int) -> BaseAdapter:
    """Check the adapter of a version. Blocking: the file of the adapter is hashed.

    Args:
        folder: model folder of the version, relative to `models_root`.

    Raises:
        UnusableAdapterError: a file is missing or differs from the manifest, the rank is above the
            limit, or the weights, tokenizer or template of the base are others.
    """
    directory = models_root / folder
    base = _base(directory)
    if not base:
        raise UnusableAdapterError("there is no adapter", field=f"{FOLDER}/{CONFIG}")
    config, own = _read(directory / FOLDER / CONFIG), _files(directory)
    rank = config.get("r")
    if not isinstance(rank, int) or not 1 <= rank <= max_rank:
        raise UnusableAdapterError(
            f"r: {rank} is not in [1, {max_rank}]", field="r", limit=f"[1, {max_rank}]"
        )
    for name in (f"{FOLDER}/{CONFIG}", f"{FOLDER}/{WEIGHTS}"):
        if own.get(name) != _sha256(directory / name):
            raise UnusableAdapterError(f"{name} differs from {MANIFEST}", field=name)
    shared = _files(models_root / base)
    if config.get("base_model_sha256") != _weights_sha256(shared):
        raise UnusableAdapterError(
            f"the weights of {base} are not those of the adapter", field="base_model_sha256"
        )
    if other := [name for name in SHARED_FILES if own.get(name) != shared.get(name)]:
        raise UnusableAdapterError(
            f"{', '.join(other)} of {base} differ from those of the version", field=other[0]
        )
    return BaseAdapter(base, f"{folder}/{FOLDER}")


def _base(directory: Path) -> str:
    """Return the name of the base; "" without an adapter."""
    try:
        named = _read(directory / FOLDER / CONFIG).get("base_model_name_or_path")
    except UnusableAdapterError:
        return ""
    # The name becomes a path.
    return named if isinstance(named, str) and VERSION.fullmatch(named) else ""


def _files(directory: Path) -> dict[str, Any]:
    """Return the hashes in the manifest of a version."""
    manifest = _read(directory / MANIFEST)
    files = manifest.get("files")
    if not isinstance(files, dict) or manifest.get("erased"):
        raise UnusableAdapterError(
            f"{MANIFEST} of {directory.name} has no files, or the version was erased", field="files"
        )
    return files


def _weights_sha256(files: Mapping[str, Any]) -> str:
    """Return the hash over the hashes of the weights, as training writes it into the adapter."""
    weights = sorted(
        item for item in files.items() if item[0].endswith(".safetensors") and "/" not in item[0]
    )
    return hashlib.sha256(json.dumps(weights).encode()).hexdigest() if weights else "none"


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnusableAdapterError(f"{path.name} cannot be read", field=path.name) from error
    if not isinstance(content, dict):
        raise UnusableAdapterError(f"{path.name} is no object", field=path.name)
    return content


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise UnusableAdapterError(f"{path.name} cannot be read", field=path.name) from error
