"""Settings of the vLLM server (TW_VLLM_SERVER_*).

Read once by chassis.settings.load_settings, which refuses unknown names.
"""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.predictor.server_settings import ModelServerSettings


class VllmServerSettings(ModelServerSettings):
    """Settings of the vLLM server and of the processes that it starts."""

    model_config = SettingsConfigDict(env_prefix="TW_VLLM_SERVER_")

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
