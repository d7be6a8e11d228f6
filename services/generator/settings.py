"""Settings of the generator (TW_GENERATOR_*)."""

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from services.chassis.database.settings import PostgresParts
from services.chassis.endpoints import EndpointUrl
from services.chassis.settings import HeaderKey, ServiceSettings
from services.contracts.chat import Task
from services.contracts.identifiers import EXTERNAL_PREFIX
from services.contracts.limits import MAX_REPLY_TOKENS, MAX_TEMPERATURE
from services.generator.answering.external_model import ExternalModel, Parameter
from services.generator.answering.presets import TASKS, Preset, read_presets


class ServingMode(StrEnum):
    """Server of the answers: the predictor, KServe, or the endpoint of an external model."""

    PREDICTOR = "predictor"
    KSERVE = "kserve"
    EXTERNAL = "external"


# Settings that only one mode reads.
SETTINGS_OF_MODES = {
    ServingMode.PREDICTOR: frozenset({"predictor_url"}),
    ServingMode.KSERVE: frozenset(
        {
            "inference_service",
            "models_root",
            "model_port",
            "max_adapter_rank",
            "small_candidate_share",
        }
    ),
    ServingMode.EXTERNAL: frozenset({"external_stable"}),
}


def _has_preset(task: Task) -> Task:
    if task not in TASKS:
        raise PydanticCustomError("enum", f"Input should be one of {', '.join(TASKS)}")
    return task


PresetTask = Annotated[Task, AfterValidator(_has_preset)]


class PresetOverride(BaseModel):
    """Changes of the preset of one task in models/presets.json; None keeps the value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)


ExternalName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,118}$")]


class ExternalModelSettings(BaseModel):
    """One external model behind an OpenAI-compatible endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    url: EndpointUrl = Field(description="base URL, such as https://api.example.com/v1")
    model: str = Field(
        min_length=1, max_length=256, description="name of the model at the endpoint"
    )
    key_file: Path | None = Field(None, description="file with the key; read for each request")
    developer: str = Field(min_length=1, max_length=128, description="developer of the model")
    licence: str = Field(min_length=1, max_length=128, description="licence of the model")
    seconds: float = Field(
        120.0, gt=0, le=600, allow_inf_nan=False, description="time limit of an answer"
    )
    max_tokens: int = Field(
        1024, ge=1, le=MAX_REPLY_TOKENS, description="limit of the tokens of an answer"
    )
    parameters: frozenset[Parameter] = Field(
        frozenset(Parameter) - {Parameter.MAX_COMPLETION_TOKENS},
        description="parameters that the endpoint accepts",
    )


class GeneratorSettings(PostgresParts, ServiceSettings):
    """Settings; defaults are those of the embedded install, relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix="TW_GENERATOR_", frozen=True, extra="forbid")

    port: int = Field(50055, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(
        51055, ge=0, le=65535, description="port of /metrics and /health; 0: none"
    )
    serving: ServingMode = Field(
        ServingMode.PREDICTOR,
        description="predictor: one model server for all versions; "
        "kserve: one InferenceService for each version; "
        "external: an external model, without versions of its own",
    )
    predictor_url: str = Field(
        "http://127.0.0.1:8000",
        pattern=r"^https?://[^/]+$",
        description="URL of the model server, without a path; with http, each address of its "
        "name is a replica, which gets all versions",
    )
    model_server_key: HeaderKey = Field(
        SecretStr(""),
        description="key sent to the model servers as `Authorization: Bearer KEY`: that of the "
        "predictor, or vLLM's --api-key; empty: none",
    )
    inference_service: str = Field(
        "",
        description="with kserve: ConfigMap with the template of this release's InferenceServices",
    )
    models_root: Path | None = Field(
        None,
        description="with kserve: mount point of the claim with the models of InferenceServices",
    )
    model_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="with kserve: port of the model servers; 0 takes the port of KServe's status",
    )
    max_adapter_rank: int = Field(
        0,
        ge=0,
        le=512,
        description="with kserve: a version whose adapter against its base has at most this rank "
        "is served by the server of its base; 0: each version has a server of its own",
    )
    small_candidate_share: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="with kserve: largest share of the users with which a candidate has the size "
        "of `candidate.json` in that ConfigMap; 0: always the size of stable",
    )
    kubernetes_url: str = Field(
        "https://kubernetes.default.svc",
        pattern=r"^https://[^/]+$",
        description="with kserve: URL of the Kubernetes API",
    )
    kubernetes_directory: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="with kserve: folder with token, ca.crt and namespace of the service account",
    )
    kubernetes_seconds: float = Field(
        5.0, gt=0, description="timeout of a call to the Kubernetes API"
    )
    database_url: str = Field(
        "",
        pattern=r"^(postgresql\+asyncpg://.+)?$",
        description="postgresql+asyncpg://…: database in which replicas share the rollout; "
        "empty: one replica with rollout_file",
    )
    database_seconds: float = Field(2.0, gt=0, description="timeout of a database statement")
    poll_seconds: float = Field(
        0.5, gt=0, description="interval between reads of the shared rollout"
    )
    rollout_file: Path = Field(
        Path(".state/generator/rollout.json"), description="file with the rollout, read and written"
    )
    stable_directory: Path | None = Field(
        None,
        description="model directory of the first stable version; "
        "read only while no rollout is stored",
    )
    reply_tokens: int = Field(
        1024,
        ge=1,
        le=4096,
        description="token limit of an answer without max_tokens; at most TW_SESSION_REPLY_TOKENS",
    )
    presets: dict[PresetTask, PresetOverride] = Field(
        default_factory=dict,
        description='JSON: sampling by task, {"code": {"top_p": 0.2}}; '
        "other values are those of models/presets.json",
    )
    served_samples: bool = Field(
        True,
        description="request tokens and log-probs from the model server for training; "
        "false for a server that rejects this",
    )
    external_models: dict[ExternalName, ExternalModelSettings] = Field(
        default_factory=dict,
        description='JSON: models of other providers by name, {"rival": '
        '{"url": "https://api.example.com/v1", "model": "rival-2", "key_file": "/keys/rival", '
        '"developer": "Example", "licence": "proprietary"}}; as external.NAME they take part in '
        "battles and get the texts of users (docs/decisions/external-models.md)",
    )
    external_stable: str = Field(
        "",
        description="with serving external: name in external_models of the model that answers all "
        "users; may be empty if there is only one",
    )
    first_token_seconds: float = Field(
        60.0, gt=0, description="timeout of the first text of an answer"
    )
    idle_seconds: float = Field(20.0, gt=0, description="timeout between two chunks of an answer")
    hang_seconds: float = Field(
        5.0,
        gt=0,
        description="time without any response, including its list of versions, "
        "after which a model server counts as hanging",
    )
    connect_seconds: float = Field(
        2.0, gt=0, description="timeout of a connection to the model server"
    )
    coalesce_seconds: float = Field(
        0.03,
        ge=0,
        le=1,
        description="pause between the first two deltas of an answer; "
        "later pauses grow to four times this value",
    )
    reconcile_seconds: float = Field(
        1.0, gt=0, description="interval between comparisons of the model server with the rollout"
    )
    load_seconds: float = Field(600.0, gt=0, description="timeout of loading a version")
    load_retry_seconds: float = Field(
        30.0, gt=0, description="wait before a failed version is loaded again"
    )
    unload_grace_seconds: float = Field(
        5.0,
        ge=0,
        description="time that a retired version stays loaded; several times poll_seconds, "
        "so that no replica still uses the version",
    )

    watch_share: float = Field(
        0.05,
        ge=0,
        le=0.5,
        description="share of the users that keep the version before a promotion, "
        "for comparison; 0: no watch after a promotion",
    )
    watch_seconds: float = Field(
        24 * 3600.0,
        ge=0,
        le=30 * 24 * 3600,
        description="time after a promotion during which the version before stays loaded and "
        "returns if the new version is worse; 0: no watch",
    )
    watch_poll_seconds: float = Field(
        5.0,
        gt=0,
        le=60,
        description="interval between comparisons; six times this value without one, "
        "and another replica takes over",
    )
    feedback_target: str = Field(
        "127.0.0.1:50056",
        description="feedback service, host:port or dns:///name:port; without an answer "
        "the watch compares errors, latency and length alone",
    )
    feedback_seconds: float = Field(
        5.0, gt=0, description="timeout of a call to the feedback service"
    )

    def task_presets(self) -> dict[Task, Preset]:
        """Return the presets of models/presets.json with the overrides of `presets`. Blocking.

        Raises:
            PresetError: the file is invalid.
        """
        named = {
            task: override.model_dump(exclude_none=True) for task, override in self.presets.items()
        }
        return {
            task: replace(preset, **named.get(task, {})) for task, preset in read_presets().items()
        }

    def external(self) -> Sequence[ExternalModel]:
        """Return the external models with their names as versions."""
        return [
            ExternalModel(name=f"{EXTERNAL_PREFIX}{name}", **model.model_dump())
            for name, model in self.external_models.items()
        ]

    def stable_external(self) -> str:
        """Return the version of the model that answers with serving external."""
        return f"{EXTERNAL_PREFIX}{self.external_stable or next(iter(self.external_models))}"

    @model_validator(mode="after")
    def _one_kind_of_serving(self) -> Self:
        for mode, names in SETTINGS_OF_MODES.items():
            if self.serving is not mode and (named := names & self.model_fields_set):
                raise PydanticCustomError(
                    "conflict",
                    "{named}: allowed only with serving {mode}",
                    {"named": ", ".join(sorted(named)), "mode": mode},
                )
        if self.serving is ServingMode.KSERVE and not (
            self.inference_service and self.models_root is not None
        ):
            raise PydanticCustomError(
                "incomplete",
                "inference_service and models_root: both are required with serving kserve",
            )
        if self.serving is ServingMode.EXTERNAL:
            self._check_external()
        return self

    def _check_external(self) -> None:
        """Raise an error unless exactly one external model is chosen to answer."""
        known = ", ".join(sorted(self.external_models))
        if not known:
            raise PydanticCustomError(
                "incomplete",
                "external_models: at least one model is required with serving external",
            )
        if not self.external_stable and len(self.external_models) > 1:
            raise PydanticCustomError(
                "incomplete",
                "external_stable: required with several external_models; one of {known}",
                {"known": known},
            )
        if self.external_stable and self.external_stable not in self.external_models:
            raise PydanticCustomError(
                "unknown",
                "external_stable: must be a name in external_models; one of {known}",
                {"known": known},
            )
