"""Settings of the guardrail service (TW_GUARDRAIL_*)."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from services.chassis.endpoints import EndpointUrl
from services.chassis.settings import ServiceSettings, SettingsError
from services.guardrail.operator import Judges, OnFailure, OperatorModel
from services.guardrail.operator_answers import WITH_POLICY, Format

WEIGHTS_DIRECTORY = Path(__file__).parent / "weights"
ENCODER_DIRECTORY = Path(__file__).parent / "encoder" / "weights"
# About 16,000 tokens; the user guide of gpt-oss-safeguard advises 400 to 600.
MAX_POLICY_BYTES = 64 * 1024


class GuardrailSettings(ServiceSettings):
    """Settings of the guardrail service."""

    model_config = SettingsConfigDict(env_prefix="TW_GUARDRAIL_")

    port: int = Field(50052, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    max_request_bytes: int = Field(
        1024 * 1024,
        ge=1024,
        le=4 * 1024 * 1024,
        description="largest gRPC request; all texts within the limits fit the default",
    )
    weights_directory: Path = Field(
        WEIGHTS_DIRECTORY, description="directory with classifier.npz and its manifest.json"
    )
    encoder_directory: Path = Field(
        ENCODER_DIRECTORY, description="directory with encoder.safetensors and its manifest.json"
    )
    phone_region: str = Field(
        "US",
        pattern="^[A-Z]{2}$",
        description="country whose phone numbers are detected without a country prefix",
    )

    operator_endpoint: EndpointUrl | Literal[""] = Field(
        "",
        description="base URL of an OpenAI-compatible endpoint with a guard model of yours, such "
        "as http://guard:8000/v1, which gets the texts that the other stages allow; empty: none",
    )
    operator_key_file: Path | None = Field(
        None, description="file with the key of that endpoint; read for each request"
    )
    operator_model: str = Field(
        "", max_length=256, description="name of the guard model at the endpoint"
    )
    operator_format: Format = Field(
        Format.LLAMA_GUARD,
        description="format of its answers: llama_guard, qwen3_guard, qwen3_guard_loose "
        "(controversial texts are allowed), yes_no, json",
    )
    operator_prompt_file: Path | None = Field(
        None,
        description="file with the policy for json and yes_no, at most 64 KiB of UTF-8; "
        "required for json",
    )
    operator_judges: Judges = Field(
        Judges.REQUESTS,
        description="requests, or requests_and_answers: also each part of an answer",
    )
    operator_on_failure: OnFailure = Field(
        OnFailure.CLOSED,
        description="without a verdict of the guard model: closed shows no text; skip keeps the "
        "verdict of the other stages",
    )
    operator_timeout_seconds: float = Field(
        1.5,
        gt=0,
        le=60,
        allow_inf_nan=False,
        description="longest wait for the verdicts of the guard model in one call; below "
        "TW_GATEWAY_GUARD_SECONDS",
    )
    operator_connections: int = Field(
        16, ge=1, le=1024, description="requests to the guard model at a time"
    )
    operator_max_tokens: int = Field(
        64,
        ge=1,
        le=4096,
        description="token limit of an answer of the guard model; more for one that reasons",
    )
    operator_max_characters: int = Field(
        8_000,
        ge=1_000,
        le=131_072,
        description="longest text in one request to the guard model; longer ones are judged in "
        "parts",
    )

    @model_validator(mode="after")
    def _complete_operator(self) -> Self:
        given = {name for name in self.model_fields_set if name.startswith("operator_")}
        if not self.operator_endpoint and (others := given - {"operator_endpoint"}):
            raise PydanticCustomError(
                "conflict",
                "{named}: allowed only with operator_endpoint",
                {"named": ", ".join(sorted(others))},
            )
        if self.operator_endpoint and not self.operator_model:
            raise PydanticCustomError(
                "incomplete", "operator_model: required with operator_endpoint"
            )
        has_policy = self.operator_prompt_file is not None
        if self.operator_format is Format.JSON and not has_policy:
            raise PydanticCustomError(
                "incomplete", "operator_prompt_file: required with operator_format json"
            )
        if has_policy and self.operator_format not in WITH_POLICY:
            raise PydanticCustomError(
                "conflict",
                "operator_prompt_file: allowed only with operator_format {formats}",
                {"formats": " or ".join(WITH_POLICY)},
            )
        return self

    def operator(self) -> OperatorModel | None:
        """Return the guard model of the operator, None without one. Blocking.

        Raises:
            SettingsError: the file with the policy is unusable.
        """
        if not self.operator_endpoint:
            return None
        return OperatorModel(
            self.operator_endpoint,
            self.operator_key_file,
            self.operator_model,
            self.operator_format,
            read_policy(self.operator_prompt_file) if self.operator_prompt_file else "",
            self.operator_judges,
            self.operator_on_failure,
            self.operator_timeout_seconds,
            self.operator_connections,
            self.operator_max_tokens,
            self.operator_max_characters,
        )


def read_policy(file: Path) -> str:
    """Return the policy for the operator's guard model. Blocking.

    Raises:
        SettingsError: the file cannot be read, is no UTF-8, empty or too large.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_POLICY_BYTES + 1)
        policy = content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason, text = "UNREADABLE", f"cannot be read as UTF-8 ({type(error).__name__})"
    else:
        if policy and len(content) <= MAX_POLICY_BYTES:
            return policy
        reason, text = "SIZE", f"must have 1 to {MAX_POLICY_BYTES:,} bytes of text"
    field = "operator_prompt_file"
    raise SettingsError(f"settings: {field}: {file}: {text}", [(field, reason)])
