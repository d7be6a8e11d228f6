"""What the gateway can be told: TW_GATEWAY_*. Defaults are those of the embedded install."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import ServiceSettings

KEYS_DATABASE_URL = "sqlite+aiosqlite:///.state/keys.db"


class KeySettings(BaseSettings):
    """The part that `python -m services.gateway keys` needs; it knows nothing of the rest, so it does not refuse it."""

    model_config = SettingsConfigDict(env_prefix="TW_GATEWAY_", frozen=True, extra="ignore")

    keys_database_url: str = Field(default=KEYS_DATABASE_URL, description="SQLAlchemy URL of the keys, async driver")


class GatewaySettings(ServiceSettings):
    """Targets, limits and times of the door."""

    model_config = SettingsConfigDict(env_prefix="TW_GATEWAY_", frozen=True, extra="forbid")

    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    max_connection_rpcs: int = Field(256, ge=0, description="calls at once on one gRPC connection; 0: no limit")
    http_port: int = Field(8080, ge=0, le=65535, description="HTTP port; 0 picks a free one")
    guardrail_target: str = Field("127.0.0.1:50052", description="guardrail service")
    enhancer_target: str = Field("127.0.0.1:50053", description="enhancer service")
    session_target: str = Field("127.0.0.1:50054", description="session service")
    generator_target: str = Field("127.0.0.1:50055", description="generator service")
    feedback_target: str = Field("127.0.0.1:50056", description="feedback service")
    principal_key: SecretStr = Field(
        min_length=16,
        description="key of the HMAC that turns a user into a principal; the same in session and feedback",
    )
    keys_database_url: str = Field(KEYS_DATABASE_URL, description="SQLAlchemy URL of the keys, async driver")
    owner_key_file: Path | None = Field(None, description="file with the owner's API key; made if it is not there")
    key_cache_seconds: float = Field(3.0, ge=0, le=5, description="how long a revoked key may still work")
    page_directory: Path | None = Field(None, description="the built page; unset serves none")
    http_metrics: bool = Field(
        True, description="/metrics on the HTTP port, without a key; off where strangers reach it"
    )
    loop_directory: Path = Field(Path(".state/loop"), description="status.json and runs/ of training's loop")

    guard_seconds: float = Field(2.0, gt=0, description="longest wait for a verdict; then no text is shown")
    enhancer_seconds: float = Field(
        1.0, gt=0, description="longest wait for the enhancer; then the text stays as typed"
    )
    session_seconds: float = Field(5.0, gt=0, description="longest wait for session")
    feedback_seconds: float = Field(5.0, gt=0, description="longest wait for the feedback service's ack")
    first_text_seconds: float = Field(
        60.0, gt=0, description="longest wait for an event of the generator before any text"
    )
    idle_seconds: float = Field(30.0, gt=0, description="longest pause within an answer")
    turn_seconds: float = Field(600.0, gt=0, description="longest turn")
    finish_seconds: float = Field(15.0, gt=0, description="how long storing an answer is tried again")
    coalesce_seconds: float = Field(
        0.04,
        ge=0,
        le=1,
        description="from the first check of an answer to the second; later pauses grow to four times it",
    )
    keep_seconds: float = Field(600.0, gt=0, description="how long the events of an ended turn can be resumed")
    max_kept_characters: int = Field(50_000_000, ge=1, description="text of ended turns kept for resuming, in all")
    http_drain_seconds: float = Field(
        2.0, ge=0, description="after gRPC has drained: what turns without a gRPC reader get to end by themselves"
    )
    sure_turns: int = Field(8, ge=1, description="turns at once that are taken however long they wait for text")
    max_turns: int = Field(500, ge=1, description="most turns at once; fewer while they wait long for their first text")
    max_turns_per_user: int = Field(100, ge=1, description="turns at once of one user")
