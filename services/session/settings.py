"""What the session service can be told: TW_SESSION_*."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from services.chassis.settings import ServiceSettings


class SessionSettings(ServiceSettings):
    """Defaults are those of the embedded install, relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix="TW_SESSION_", frozen=True, extra="forbid")

    port: int = Field(50054, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    metrics_port: int = Field(51054, ge=0, le=65535, description="port of /metrics; 0 serves none")
    database_url: str = Field(
        "sqlite:///.state/sessions.db",
        pattern=r"^(sqlite:///.+|postgresql\+asyncpg://.+)",
        description="SQLAlchemy URL of the conversations: sqlite:///FILE, or postgresql+asyncpg://USER:PASSWORD@HOST/NAME",
    )
    connections: int = Field(
        4, ge=1, description="database connections: with SQLite for reading, with Postgres in all"
    )
    database_pool_seconds: float = Field(
        2.0,
        gt=0,
        description="longest wait for a free connection or a new one; this and the next three: Postgres",
    )
    database_lock_seconds: float = Field(2.0, gt=0, description="longest wait for a lock")
    database_statement_seconds: float = Field(3.0, gt=0, description="longest statement")
    database_work_seconds: float = Field(
        4.5, gt=0, description="longest transaction with all its tries; less than the gateway waits"
    )
    principal_key: SecretStr = Field(
        min_length=16,
        description="key of the HMAC that turns a user into a principal; the same in gateway and feedback",
    )
    tokenizer_file: Path = Field(description="tokenizer.json of the model that answers")
    context_tokens: int = Field(
        8192, ge=64, description="what the model reads and writes in one turn, in tokens"
    )
    reply_tokens: int = Field(
        1024, ge=1, description="room for the answer if the turn does not say, in tokens"
    )
    template_tokens: int = Field(
        32,
        ge=0,
        description="kept for what the chat template adds once: a usual system prompt, the answer's opening",
    )
    message_overhead_tokens: int = Field(
        6, ge=0, description="what the chat template adds to each message, in tokens"
    )
    max_turn_seconds: float = Field(
        900.0, gt=0, description="an answer open for longer reads as failed"
    )
    feedback_target: str = Field(
        "127.0.0.1:50056", description="the feedback service, host:port or dns:///name:port"
    )
    relay_timeout_seconds: float = Field(
        10.0, gt=0, description="time that the feedback service gets for one batch"
    )
    relay_poll_seconds: float = Field(
        1.0, gt=0, description="how often the outbox is looked at without a wake-up"
    )
    relay_linger_seconds: float = Field(
        0.25, ge=0, le=5, description="how long finished turns collect for one batch"
    )
    relay_max_backoff_seconds: float = Field(
        15.0, gt=0, description="longest wait while the feedback service is away"
    )
    relay_lease_seconds: float = Field(
        3.0,
        ge=0.1,
        description="another replica relays when the one that did shows no life for so long",
    )
