"""Settings of the predictor: TW_PREDICTOR_<FIELD>. Read once, by chassis.settings.load_settings,
which refuses unknown ones.
"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.predictor.engine.pipeline import Precision


class PredictorSettings(BaseSettings):
    """What the predictor can be told."""

    model_config = SettingsConfigDict(env_prefix="TW_PREDICTOR_", frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    cache_directory: Path = Field(
        Path(".state/predictor"), description="where converted graphs are kept"
    )
    cached_graphs: int = Field(
        6, ge=1, description="converted graphs on disk; those not used for longest go"
    )
    models_root: Path | None = Field(
        None, description="load only model directories under this one; unset allows all"
    )
    startup_models: tuple[Path, ...] = Field(
        (), description="JSON list of model directories to load before ready"
    )
    peer_url: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="other predictors, as one address: what they serve is loaded before ready",
    )
    failure_file: Path | None = Field(
        None,
        description="where it says why a model of startup_models cannot be loaded, and then ends; unset: it stays, not ready",
    )
    max_versions: int = Field(4, ge=1, description="versions in memory at once")
    kv_blocks: int = Field(256, ge=1, description="key/value blocks of 32 tokens for each version")
    max_concurrent: int = Field(16, ge=1, description="generations of a version that share a step")
    max_waiting: int = Field(
        64, ge=0, description="generations of a version that may wait; one more is refused with 429"
    )
    default_max_tokens: int = Field(
        1024, ge=1, description="new tokens of a chat request that does not say"
    )
    prefill_chunk_tokens: int = Field(
        256, ge=1, description="prompt tokens a step; bounds how long a long prompt stalls others"
    )
    threads: int = Field(0, ge=0, description="inference threads; 0 lets OpenVINO choose")
    precision: Precision = Field(Precision.AUTO, description="auto or f32")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="largest request body")
    drain_seconds: float = Field(
        30.0, ge=0, description="time that running generations get at unload and shutdown"
    )
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text for people, json for machines"
    )
