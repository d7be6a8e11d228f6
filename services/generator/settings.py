"""What the generator can be told: TW_GENERATOR_*."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class GeneratorSettings(ServiceSettings):
    """Defaults are those of the embedded install, relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix="TW_GENERATOR_", frozen=True, extra="forbid")

    port: int = Field(50055, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(51055, ge=0, le=65535, description="port of /metrics; 0 serves none")
    predictor_url: str = Field(
        "http://127.0.0.1:8000", pattern=r"^https?://[^/]+$", description="the model server, without a path"
    )
    database_url: str = Field(
        "",
        pattern=r"^(postgresql\+asyncpg://.+)?$",
        description="postgresql+asyncpg://…: replicas share the rollout there; empty: this one keeps it in rollout_file",
    )
    database_seconds: float = Field(2.0, gt=0, description="longest wait for one answer of the database")
    poll_seconds: float = Field(
        0.5, gt=0, description="how often the database is asked for what other replicas changed"
    )
    rollout_file: Path = Field(Path(".state/generator/rollout.json"), description="which versions answer; written here")
    stable_directory: Path | None = Field(
        None, description="model directory of the first stable version; read only while no rollout is stored"
    )
    reply_tokens: int = Field(
        1024,
        ge=1,
        le=4096,
        description="longest answer of a caller who says nothing; not above TW_SESSION_REPLY_TOKENS",
    )
    first_token_seconds: float = Field(60.0, gt=0, description="longest wait for the first text of an answer")
    idle_seconds: float = Field(20.0, gt=0, description="longest wait between two pieces of an answer")
    hang_seconds: float = Field(
        5.0, gt=0, description="a model server that says nothing for this long, its list of versions included, hangs"
    )
    connect_seconds: float = Field(2.0, gt=0, description="longest wait for a connection to the model server")
    coalesce_seconds: float = Field(
        0.03, ge=0, le=1, description="deltas after the first are put together for this long"
    )
    reconcile_seconds: float = Field(1.0, gt=0, description="how often the model server's versions are compared")
    load_seconds: float = Field(600.0, gt=0, description="longest time that loading a version may take")
    load_retry_seconds: float = Field(30.0, gt=0, description="wait before a version that failed is loaded again")
    unload_grace_seconds: float = Field(
        5.0,
        ge=0,
        description="a retired version stays loaded this long; some times poll_seconds, so that no replica uses it",
    )
