"""Model of an evaluation: a directory, a version of the registry, or an endpoint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from durable_files.files import write_json
from training.artifacts.manifest import MANIFEST, hash_files
from training.artifacts.registry import VERSION, Registry
from training.artifacts.scores import ENDPOINT, WEIGHTS, ScoredModel
from training.errors import ConfigError
from training.model.fields import check_model_directory
from training.serving.connection import EndpointError, RefusedError
from training.serving.endpoint import Endpoint
from training.serving.predictor import serving

# Servers of one name and description are told apart by the log-probs of this text. For nano-0 with
# weights in 8 bits the mean difference is 0.040, for two versions trained from it 0.43 and 0.51.
SAMPLE = (
    "User: My train was late, so I missed the last bus. How do I get home from the station?\n"
    "Assistant: You could call a taxi, ask a friend to drive you, or look for a night bus."
)
MAX_DIFFERENCE = 0.05  # mean over the tokens of SAMPLE, in nats
ENDPOINTS = "endpoints.json"
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

    def directory(self) -> Path:
        """Return the directory of a model that is no URL.

        Raises:
            ConfigError: there is neither a directory nor a version of this name.
        """
        directory, versions = Path(self.model), self.state / "models"
        is_version = VERSION.fullmatch(self.model) and Registry(versions).has(self.model)
        if is_version and not directory.is_dir():
            return Registry(versions).directory(self.model)
        check_model_directory(directory, "model", f" and is no version in {versions}")
        return directory


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that answers requests.

    Attributes:
        version: name under which scores are stored.
        window_tokens: prompt and answer together.
        digest: hash of the manifest; for a URL of the model's description by the endpoint, since
            weights are unknown. The address does not count, because the server may have moved;
            `distinguish` tells models of the same description apart.
        directory: None for a URL.
    """

    version: str
    endpoint: Endpoint
    window_tokens: int
    digest: str
    directory: Path | None = None

    def scored(self) -> ScoredModel:
        """Return the name, source and hash of the scores; reads the files of a directory."""
        if self.directory is None:
            return ScoredModel(self.version, ENDPOINT, self.digest)
        return ScoredModel(self.version, WEIGHTS, hash_files(self.directory))


@contextmanager
def opened(choice: ModelChoice) -> Iterator[EvaluatedModel]:
    """Serve the model of a directory or version, or connect to the endpoint, in the block.

    Raises:
        ConfigError: the model is unknown, its name cannot be stored, or an endpoint has another
            tokenizer than the version of its name in the registry.
        EndpointError: the model server does not start or does not answer.
    """
    if URL.match(choice.model):
        with Endpoint(choice.model, choice.served_name, choice.key) as endpoint:
            yield _connected(choice, endpoint)
        return
    directory = choice.directory()
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
    version = _storable(choice.version or name)
    registry = Registry(choice.state / "models")
    if registry.has(version):
        # Scores are stored under this version, so the server must at least read its tokens.
        endpoint.check_tokenizer(registry.directory(version))
    return EvaluatedModel(
        version=version,
        endpoint=endpoint,
        window_tokens=window_tokens,
        digest=hashlib.sha256(json.dumps(description).encode()).hexdigest(),
    )


def distinguish(model: EvaluatedModel, folder: Path) -> EvaluatedModel:
    """Return the model with a digest that differs from those of other models at endpoints.

    The first model with a description keeps its digest. A server without log-probs of prompts
    counts as the first. Models of directories are returned unchanged.

    Args:
        folder: of the scores; the file ENDPOINTS in it has the log-probs of known models.
    """
    if model.directory is not None:
        return model
    try:
        found = model.endpoint.log_probs([SAMPLE])[0].log_probs
    except (EndpointError, RefusedError):
        return model
    path = folder / ENDPOINTS
    known: dict[str, list[list[float]]] = json.loads(path.read_text()) if path.exists() else {}
    models = known.setdefault(model.digest, [])
    place = next((n for n, earlier in enumerate(models) if _agree(found, earlier)), len(models))
    if place == len(models):
        models.append([round(value, 4) for value in found])
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, known)
    digest = hashlib.sha256(f"{model.digest} {place}".encode()).hexdigest()
    return replace(model, digest=digest) if place else model


def _agree(found: Sequence[float], earlier: Sequence[float]) -> bool:
    differences = [abs(one - other) for one, other in zip(found, earlier, strict=False)]
    return len(found) == len(earlier) and sum(differences) <= MAX_DIFFERENCE * len(found)


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
