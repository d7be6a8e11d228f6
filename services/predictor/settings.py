"""Settings of the predictor (TW_PREDICTOR_*).

Read once by chassis.settings.load_settings, which refuses unknown names.
"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.predictor.engine.pipeline import Precision
from services.predictor.graph.weights import WeightFormat
from services.predictor.server_settings import ModelServerSettings


class PredictorSettings(ModelServerSettings):
    """Settings; defaults are those of the embedded install."""

    model_config = SettingsConfigDict(env_prefix="TW_PREDICTOR_")

    require_key: bool = Field(
        True,
        description="false: calls without a key are accepted, a wrong key is refused; "
        "for the upgrade of generators that send none",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="JSON list of host names under which callers reach this server, "
        "`.example.com` for all below; localhost and IP addresses are always allowed",
    )
    cache_directory: Path = Field(
        Path(".state/predictor"), description="folder of converted graphs"
    )
    cached_graphs: int = Field(
        6, ge=1, description="converted graphs on disk; the least recently used are deleted"
    )
    models_root: Path | None = Field(
        None, description="root of allowed model directories; unset allows all"
    )
    startup_models: tuple[Path, ...] = Field(
        (), description="JSON list of model directories to load before ready"
    )
    peer_url: str = Field(
        "",
        pattern="^(https?://.+)?$",
        description="address of other predictors; their versions are loaded before ready",
    )
    failure_file: Path | None = Field(
        None,
        description="file for the reason if a model of startup_models cannot be loaded; "
        "the process then ends; unset: the process stays, not ready",
    )
    max_versions: int = Field(4, ge=1, description="limit of versions in memory")
    kv_blocks: int = Field(
        512,
        ge=1,
        description="key/value blocks of 32 tokens for each version: two contexts of 8,192 tokens",
    )
    max_concurrent: int = Field(16, ge=1, description="generations of a version that share a step")
    max_waiting: int = Field(
        64, ge=0, description="queued generations of a version; more are refused with 429"
    )
    default_max_tokens: int = Field(
        1024, ge=1, description="new tokens of a chat request without max_tokens"
    )
    prefill_chunk_tokens: int = Field(
        256,
        ge=1,
        description="prompt tokens per step; limits the delay of other streams by a long prompt",
    )
    threads: int = Field(0, ge=0, description="inference threads; 0 lets OpenVINO choose")
    precision: Precision = Field(Precision.AUTO, description="auto or f32")
    weights: WeightFormat = Field(
        WeightFormat.U8,
        description="u8, or f32 for log-probs of the checkpoint itself, at four times the memory",
    )
