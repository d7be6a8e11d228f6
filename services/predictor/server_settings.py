"""Settings that the predictor and the vLLM server share; imports neither OpenVINO nor gRPC."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import MIN_HEADER_KEY_CHARACTERS, HeaderKey


class ModelServerSettings(BaseSettings):
    """Settings of a model server.

    Subclasses set `env_prefix` and add fields.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    metrics_port: int = Field(9000, ge=0, le=65535, description="port of /metrics; 0: none")
    model_server_key: HeaderKey = Field(
        min_length=MIN_HEADER_KEY_CHARACTERS,
        description="key that callers send as `Authorization: Bearer KEY`, "
        "for every path except the health checks; same as in the generator",
    )
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="largest request body")
    drain_seconds: float = Field(
        30.0, ge=0, description="time for running answers at unload and shutdown"
    )
    log_format: str = Field(
        "text", pattern="^(text|json)$", description="text for people, json for machines"
    )
