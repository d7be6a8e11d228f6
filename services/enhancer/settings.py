"""Settings of the enhancer service (TW_ENHANCER_*)."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class EnhancerSettings(ServiceSettings):
    """Settings of the enhancer service."""

    model_config = SettingsConfigDict(env_prefix="TW_ENHANCER_")

    port: int = Field(50053, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    max_request_bytes: int = Field(
        256 * 1024,
        ge=1024,
        le=4 * 1024 * 1024,
        description="largest gRPC request; all texts within the limits fit the default",
    )
