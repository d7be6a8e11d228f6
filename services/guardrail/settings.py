"""Settings of the guardrail service (TW_GUARDRAIL_*)."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings

WEIGHTS_DIRECTORY = Path(__file__).parent / "weights"
ENCODER_DIRECTORY = Path(__file__).parent / "encoder" / "weights"


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
