"""Settings of the vLLM server (TW_VLLM_SERVER_*).

Read once by chassis.settings.load_settings, which refuses unknown names.
"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import MIN_HEADER_KEY_CHARACTERS, HeaderKey


class VllmServerSettings(BaseSettings):
    """Settings of the vLLM server and of the processes that it starts."""

    model_config = SettingsConfigDict(
        env_prefix="TW_VLLM_SERVER_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    metrics_port: int = Field(9000, ge=0, le=65535, description="port of /metrics; 0: none")
    model_server_key: HeaderKey = Field(
        min_length=MIN_HEADER_KEY_CHARACTERS,
        description="key that callers send as `Authorization: Bearer KEY`, "
        "for every path except the health checks; same as in the generator",
    )
    python: Path = Field(description="interpreter of the environment in which vLLM is installed")
    folder: Path = Field(
        Path(".state/vllm"), description="folder for logs, keys and caches of the processes"
    )
    max_versions: int = Field(
        2, ge=1, description="limit of loaded versions; they share gpu_memory_fraction equally"
    )
    kv_gigabytes: float = Field(
        1.0, gt=0, description="memory of a version for keys and values on a CPU, rounded up"
    )
    gpu_memory_fraction: float = Field(
        0.9, gt=0, le=1, description="share of a GPU's memory for all versions together"
    )
    max_model_len: int | None = Field(
        None, ge=1, description="limit of prompt and answer together, in tokens; unset: the model's"
    )
    enforce_eager: bool = Field(
        True,
        description="false: the model is compiled at each load, which pays on a GPU and takes "
        "minutes on a CPU",
    )
    arguments: tuple[str, ...] = Field(
        (),
        description='JSON list of additional arguments of vLLM, for example ["--dtype=float32"]',
    )
    load_seconds: float = Field(1800.0, gt=0, description="time limit of the start of a process")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="largest request body")
    drain_seconds: float = Field(
        30.0, ge=0, description="time for running answers at unload and shutdown"
    )
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text for people, json for machines"
    )
