"""A model of another provider, as the settings describe it."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from services.contracts.identifiers import EXTERNAL_PREFIX


class Parameter(StrEnum):
    """Optional parameters of a request, which not every endpoint accepts."""

    TEMPERATURE = "temperature"
    TOP_P = "top_p"
    MAX_TOKENS = "max_tokens"
    MAX_COMPLETION_TOKENS = "max_completion_tokens"
    STOP = "stop"
    SEED = "seed"
    STREAM_OPTIONS = "stream_options"


@dataclass(frozen=True)
class ExternalModel:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        name: name as a version, with EXTERNAL_PREFIX.
        url: base URL, to which `/chat/completions` is appended.
        model: name of the model at the endpoint.
        key_file: file with the key; None: requests have no key.
        developer: developer of the model.
        licence: licence of the model.
        seconds: time limit of an answer.
        max_tokens: limit of an answer.
        parameters: names of the parameters that the endpoint accepts.
    """

    name: str
    url: str
    model: str
    key_file: Path | None
    developer: str
    licence: str
    seconds: float
    max_tokens: int
    parameters: frozenset[Parameter]

    def __post_init__(self) -> None:
        """Require the prefix, by which training leaves answers of external models out."""
        if not self.name.startswith(EXTERNAL_PREFIX):
            raise ValueError(f"{self.name} does not begin with {EXTERNAL_PREFIX}")
