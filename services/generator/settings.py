"""What the generator can be told: TW_GENERATOR_*."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings
from services.generator.presets import MAX_TEMPERATURE, Preset, Task, read_presets


class Serving(StrEnum):
    """What holds the versions."""

    PREDICTOR = "predictor"
    KSERVE = "kserve"


class PresetOverride(BaseModel):
    """Sampling of one task that differs from models/presets.json; None leaves its value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float | None = Field(None, ge=0, le=MAX_TEMPERATURE, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)


class GeneratorSettings(ServiceSettings):
    """Defaults are those of the embedded install, relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix="TW_GENERATOR_", frozen=True, extra="forbid")

    port: int = Field(50055, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(51055, ge=0, le=65535, description="port of /metrics; 0 serves none")
    serving: Serving = Field(
        Serving.PREDICTOR,
        description="predictor: one model server holds all versions; kserve: an InferenceService for each",
    )
    predictor_url: str = Field(
        "http://127.0.0.1:8000",
        pattern=r"^https?://[^/]+$",
        description="the model server, without a path",
    )
    inference_service: str = Field(
        "",
        description="with kserve: the ConfigMap that says what an InferenceService of this release looks like",
    )
    models_root: Path | None = Field(
        None,
        description="with kserve: where the claim is mounted here that InferenceServices have their models from",
    )
    model_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="with kserve: port of the model servers; 0: as KServe's status says",
    )
    kubernetes_url: str = Field(
        "https://kubernetes.default.svc",
        pattern=r"^https://[^/]+$",
        description="the Kubernetes API, with kserve",
    )
    kubernetes_directory: Path = Field(
        Path("/var/run/secrets/kubernetes.io/serviceaccount"),
        description="token, ca.crt and namespace of the service account, with kserve",
    )
    kubernetes_seconds: float = Field(
        5.0, gt=0, description="longest wait for one answer of the Kubernetes API"
    )
    database_url: str = Field(
        "",
        pattern=r"^(postgresql\+asyncpg://.+)?$",
        description="postgresql+asyncpg://…: replicas share the rollout there; empty: this one keeps it in rollout_file",
    )
    database_seconds: float = Field(
        2.0, gt=0, description="longest wait for one answer of the database"
    )
    poll_seconds: float = Field(
        0.5, gt=0, description="how often the database is asked for what other replicas changed"
    )
    rollout_file: Path = Field(
        Path(".state/generator/rollout.json"), description="which versions answer; written here"
    )
    stable_directory: Path | None = Field(
        None,
        description="model directory of the first stable version; read only while no rollout is stored",
    )
    reply_tokens: int = Field(
        1024,
        ge=1,
        le=4096,
        description="longest answer of a caller who says nothing; not above TW_SESSION_REPLY_TOKENS",
    )
    presets: dict[Task, PresetOverride] = Field(
        default_factory=dict,
        description='JSON: sampling by task, {"code": {"top_p": 0.2}}; what is not named is as in models/presets.json',
    )
    served_samples: bool = Field(
        True,
        description="ask the model server for tokens and log-probs, so that training knows them; false for one that refuses this",
    )
    first_token_seconds: float = Field(
        60.0, gt=0, description="longest wait for the first text of an answer"
    )
    idle_seconds: float = Field(
        20.0, gt=0, description="longest wait between two pieces of an answer"
    )
    hang_seconds: float = Field(
        5.0,
        gt=0,
        description="a model server that says nothing for this long, its list of versions included, hangs",
    )
    connect_seconds: float = Field(
        2.0, gt=0, description="longest wait for a connection to the model server"
    )
    coalesce_seconds: float = Field(
        0.03,
        ge=0,
        le=1,
        description="from the first delta of an answer to the second; later pauses grow to four times it",
    )
    reconcile_seconds: float = Field(
        1.0, gt=0, description="how often the model server's versions are compared"
    )
    load_seconds: float = Field(
        600.0, gt=0, description="longest time that loading a version may take"
    )
    load_retry_seconds: float = Field(
        30.0, gt=0, description="wait before a version that failed is loaded again"
    )
    unload_grace_seconds: float = Field(
        5.0,
        ge=0,
        description="a retired version stays loaded this long; some times poll_seconds, so that no replica uses it",
    )

    def task_presets(self) -> dict[Task, Preset]:
        """Return the presets of models/presets.json with what `presets` replaces. Blocking. Raises:
        PresetError.
        """
        named = {
            task: override.model_dump(exclude_none=True) for task, override in self.presets.items()
        }
        return {
            task: replace(preset, **named.get(task, {})) for task, preset in read_presets().items()
        }

    @model_validator(mode="after")
    def _one_kind_of_serving(self) -> Self:
        if self.serving is Serving.PREDICTOR:
            if named := {"inference_service", "models_root", "model_port"} & self.model_fields_set:
                raise PydanticCustomError(
                    "conflict",
                    "{named}: only with serving kserve",
                    {"named": ", ".join(sorted(named))},
                )
        elif "predictor_url" in self.model_fields_set:
            raise PydanticCustomError(
                "conflict",
                "predictor_url: with serving kserve each version has a server of its own",
            )
        elif not self.inference_service or self.models_root is None:
            raise PydanticCustomError(
                "incomplete", "inference_service and models_root: serving kserve needs both"
            )
        return self
