"""Model of an evaluation: a directory, a version of the registry, or an endpoint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from training.artifacts.manifest import MANIFEST, hash_files
from training.artifacts.registry import VERSION, Registry
from training.artifacts.scores import ENDPOINT, WEIGHTS
from training.benchmarks.endpoint import Endpoint, EndpointError
from training.benchmarks.model_server import serving
from training.errors import ConfigError

# Fields of /v1/models that identify a model; `created` changes with each request in vLLM.
DESCRIPTION = ("id", "root", "parent", "owned_by", "max_model_len")
URL = re.compile(r"https?://")


@dataclass(frozen=True)
class ModelChoice:
    """Choice of a model on the command line.

    Attributes:
        model: directory, version of the registry, or URL of an OpenAI-compatible endpoint.
        state: folder of the state, with the registry in `models`.
        served_name: for a URL, the model's name at the endpoint; "" if it serves a single one.
        version: name under which scores are stored; "" takes the name of the model.
        key: key of the endpoint; "" sends none.
    """

    model: str
    state: Path
    served_name: str = ""
    version: str = ""
    key: str = ""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that answers requests.

    Attributes:
        version: name under which scores are stored.
        window_tokens: prompt and answer together.
        digest: hash of the manifest; for a URL of the model's description by the endpoint, since
            weights are unknown. The address does not count.
        directory: None for a URL.
    """

    version: str
    endpoint: Endpoint
    window_tokens: int
    digest: str
    directory: Path | None = None

    @property
    def model_sha256(self) -> str:
        """Return the hash that is stored with the scores."""
        return self.digest if self.directory is None else hash_files(self.directory)

    @property
    def source(self) -> str:
        """Return the source of the model's scores."""
        return ENDPOINT if self.directory is None else WEIGHTS


@contextmanager
def opened(choice: ModelChoice) -> Iterator[EvaluatedModel]:
    """Serve the model of a directory or version, or connect to the endpoint, in the block.

    Raises:
        ConfigError: the model is unknown or its name cannot be stored.
        RegistryError: the version is unknown.
        EndpointError: the model server does not start or does not answer.
    """
    if URL.match(choice.model):
        with Endpoint(choice.model, choice.served_name, choice.key) as endpoint:
            yield _connected(choice, endpoint)
        return
    if choice.served_name or choice.key:
        raise ConfigError(
            "--served-name and --key-file are only for a URL",
            field="served_name" if choice.served_name else "key",
            limit="a URL as model",
        )
    directory = Path(choice.model)
    if not (directory / MANIFEST).is_file() and VERSION.fullmatch(choice.model):
        directory = Registry(choice.state / "models").directory(choice.model)
    with serving(directory) as endpoint:
        yield EvaluatedModel(
            version=_storable(choice.version or endpoint.model),
            endpoint=endpoint,
            window_tokens=endpoint.models()[endpoint.model],
            digest=hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest(),
            directory=directory,
        )


def _connected(choice: ModelChoice, endpoint: Endpoint) -> EvaluatedModel:
    models = endpoint.descriptions()
    known = ", ".join(sorted(models)) or "none"
    name = choice.served_name or (next(iter(models)) if len(models) == 1 else "")
    if name not in models:
        raise ConfigError(
            f"--served-name: {name!r} is not a model of {endpoint.base_url}; it serves {known}",
            field="served_name",
            reason="UNKNOWN",
            limit=known,
        )
    description = {key: models[name].get(key) for key in DESCRIPTION}
    window_tokens = int(description["max_model_len"] or 0)
    if not window_tokens:
        raise EndpointError(
            f"{endpoint.base_url}/v1/models names no max_model_len for {name}",
            field="max_model_len",
            reason="MISSING",
        )
    endpoint.model = name
    return EvaluatedModel(
        version=_storable(choice.version or name),
        endpoint=endpoint,
        window_tokens=window_tokens,
        digest=hashlib.sha256(json.dumps(description).encode()).hexdigest(),
    )


def _storable(version: str) -> str:
    if not VERSION.fullmatch(version):
        limit = "1 to 128 of a-z, 0-9, '.', '_', '-'"
        raise ConfigError(
            f"--version: {version!r} is not {limit}; choose a name with --version",
            field="version",
            reason="MALFORMED",
            limit=limit,
        )
    return version
